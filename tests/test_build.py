"""BUILD against the code: one target for each module, deps exactly its imports (`tests/build_file.py` writes it)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ONE_DOOR = {
    "matplotlib": {"tflite_tools.error_plot", "tflite_tools.profile_plot"},
    "ethosu": {"tflite_tools.devices.vela_worker"},
    "jax": {"keras_qcqp.gradients"},
    "ortools": {"keras_qcqp.solvers.cpsat"},
    "tensorflow": {
        "keras_qcqp.gradients",
        "tflite_tools.aware.training",  # in a process of its own
        "tflite_tools.aware.twin",
        "tflite_tools.gpu_worker",
        "tflite_tools.keras_models",
        "tflite_tools.tensorflow_engine",
    },
    "tensorflow_model_optimization": {"tflite_tools.aware.twin"},
    "ai_edge_quantizer": {"tflite_tools.edge_quantizer"},
    "tf_keras": {"keras_qcqp.legacy.files", "tflite_tools.aware.training", "tflite_tools.aware.twin"},
    "torch": {"keras_qcqp.gradients"},
}


def modules() -> dict[str, Path]:
    files = [f for package in ("keras_qcqp", "tflite_tools") for f in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def targets() -> dict[str, tuple[str, list[str]]]:
    """Name -> (source file, deps) of every target in BUILD, which is also Python syntax."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "BUILD").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("py_library", "py_binary"):
            values = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
            found[values["name"]] = (values["srcs"][0], [d.removeprefix(":") for d in values.get("deps", [])])
    return found


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def test_one_target_for_each_module():
    assert {name: str(path.relative_to(ROOT)) for name, path in modules().items()} == {
        name: source for name, (source, _) in targets().items()
    }


@pytest.mark.parametrize("name", modules())
def test_deps_are_the_imports(name):
    known = set(modules()) - {"keras_qcqp", "tflite_tools", name}
    assert targets()[name][1] == sorted(imports(modules()[name]) & known)


def test_the_two_packages_meet_at_one_door():
    for name, path in modules().items():
        if name == "tflite_tools.sources":
            continue
        other = "tflite_tools" if name.startswith("keras_qcqp") else "keras_qcqp"
        assert not any(i.split(".")[0] == other for i in imports(path)), name


@pytest.mark.parametrize("library", ONE_DOOR)
def test_one_door_for_each_heavy_dependency(library):
    doors = {name for name, path in modules().items() if any(i.split(".")[0] == library for i in imports(path))}
    assert doors == ONE_DOOR[library]


@pytest.mark.parametrize("peer", ["cplex", "keras_cv_attention_models", "keras_hub", "pyscipopt"])
def test_peers_and_zoos_are_never_imported(peer):
    assert not {name for name, path in modules().items() if any(i.split(".")[0] == peer for i in imports(path))}


def test_one_door_to_the_private_side_of_keras_graphs():
    private = re.compile(
        r"\._(nodes_by_depth|inputs_struct|outputs_struct|keras_history|compile_config|inbound_nodes|nested_inputs)\b"
    )
    users = {name for name, path in modules().items() if private.search(path.read_text())}
    assert users == {"keras_qcqp.keras_graph", "keras_qcqp.legacy.graph"}  # of Keras 3, of Keras 2
