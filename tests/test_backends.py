"""Pruning needs no particular backend of Keras: the law under each one that is installed, and the same plans."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import pytest
from networks import NETWORKS, shake

BACKENDS = ("tensorflow", "jax", "torch")
FEW = ("option_a_forms", "two_by_two")  # operations on tensors; a nested model, shared, and inputs by name
ROOT = Path(__file__).resolve().parents[1]


def require_installed(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"backend {backend} is not installed: pip install '.[backends]'")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What `backend_law.py` says under a backend, with the other frameworks out of reach; run once for each."""
    folder, known = tmp_path_factory.mktemp("backends"), dict[tuple[str, ...], dict[str, Any]]()
    shake(networks.option_a()).save(folder / "original.keras")

    def run(backend: str, *names: str) -> dict[str, Any]:
        require_installed(backend)
        key = (backend, *names)
        if key not in known:
            process = run_law(backend, folder, *names)
            assert process.returncode == 0, process.stdout + process.stderr
            known[key] = json.loads(process.stdout.splitlines()[-1])
        return known[key]

    return run


def run_law(backend: str, folder: Path, *names: str) -> subprocess.CompletedProcess:
    """Modules of their names that refuse to be imported hide the other frameworks, from the solver's process too."""
    hidden = folder / f"without_all_but_{backend}"
    hidden.mkdir(exist_ok=True)
    for other in {*BACKENDS} - {backend}:
        (hidden / f"{other}.py").write_text(f"raise ImportError('{other} is hidden')")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(map(str, (hidden, ROOT))),
        "JAX_PLATFORMS": "cpu",
        "KERAS_TORCH_DEVICE": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0" if backend == "jax" else "",  # compiles every operation anew
    }
    return subprocess.run(
        [sys.executable, ROOT / "tests/backend_law.py", folder, *names],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1800,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_law_and_the_main_job_under_each_backend(backend, told):
    """Everything in `backend_law.py`; neither another framework nor OR-Tools is imported by pruning."""
    assert told(backend, *FEW)["imported"] == [backend]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("residual", ["tied", "union"])
def test_one_file_has_one_plan_under_all_backends(backend, residual, told):
    here, there = (told(name, *FEW)["pruned"][residual] for name in (BACKENDS[0], backend))
    assert here["plan"].encode() == there["plan"].encode()
    assert here["report"] == there["report"]
    assert here["measured"] == there["measured"]  # the deployed file included, which only TensorFlow can write


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_law_on_all_networks_under_each_backend(backend, told):
    assert told(backend, *NETWORKS)["law"] == list(NETWORKS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_command_line_under_each_backend(backend, tmp_path, run_python):
    """Standard error tells what is done and nothing else, whatever the frameworks would like to add."""
    require_installed(backend)
    shake(networks.chain()).save(tmp_path / "in.keras")
    command = ("-m", "keras_qcqp.prune_main", f"--model={tmp_path / 'in.keras'}", "--budget=macs=0.5")
    process = run_python(*command, f"--output={tmp_path / 'out.keras'}", KERAS_BACKEND=backend)
    assert process.returncode == 0, process.stderr
    known = re.compile(r"loading |\d+ coupled masks|ascent: |exact |rebuilding|wrote ")
    assert [line for line in process.stderr.splitlines() if not known.match(line)] == []
