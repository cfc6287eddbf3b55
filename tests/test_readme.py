"""The README keeps its word: commands match the gate, code runs, files and names exist."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import keras
import networks
import numpy as np
import pytest
import tf_keras

import keras_qcqp
import tflite_tools
from tflite_tools.latency import verifying

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block(text: str) -> str:
    """The one Python example that holds a text."""
    (found,) = (code for code in PYTHON if text in code)
    return found


FILES = sorted(set(re.findall(r"`((?:examples|tests|keras_qcqp|tflite_tools)/[\w/.]+)`", README)))
SHELL = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_the_gate_runs_the_readmes_test_command():
    gate = (ROOT / ".ci/run").read_text().splitlines()
    assert SHELL[1].strip() in gate


def test_the_first_example_and_the_road_to_the_edge_run(tmp_path, monkeypatch):
    model = networks.shake(networks.residual())
    model.save(tmp_path / "resnet20_cifar10.keras")
    monkeypatch.chdir(tmp_path)
    samples = np.random.default_rng(0).normal(size=(60, 8, 8, 3)).astype("float32")
    names: dict[str, object] = {"samples": samples, "x_train": samples}
    exec(block("resnet20_cifar10.keras"), names)
    assert keras_qcqp.measure(names["result"].model)["macs"] <= 0.5 * keras_qcqp.measure(model)["macs"]
    exec(block("tflite_tools.convert"), names)
    assert len(names["outputs"]) == 1


def test_the_example_of_latencies_runs(tmp_path, monkeypatch, capsys):
    from staircase import Steps
    from test_latency_budget import converted

    monkeypatch.chdir(tmp_path)
    model = networks.shake(networks.residual())
    Path("net_int8.tflite").write_bytes(converted(model, "int8"))
    fit, prune = tflite_tools.fit_latency, keras_qcqp.prune
    quick = tflite_tools.FitOptions(num_calibration=1, num_held_out=2)
    monkeypatch.setattr(tflite_tools, "fit_latency", lambda path: fit(path, Steps(), quick))
    measure = functools.partial(verifying.measure, source=Steps())
    monkeypatch.setattr(keras_qcqp, "prune", lambda *a, verify, **k: prune(*a, verify=measure, **k), raising=False)
    names: dict[str, object] = {"keras_qcqp": keras_qcqp, "tflite_tools": tflite_tools, "model": model}
    code = block("LatencyLimit").replace("fraction=0.8", "fraction=0.95")  # its steps are wide for so small a network
    exec(code, names)
    assert names["result"].latencies[0].measured_ms <= 0.95 * names["result"].latencies[0].before_ms
    assert "held-out networks of random widths, chosen" in capsys.readouterr().out


def test_the_example_of_fine_tuning_runs(tmp_path, monkeypatch, capsys):
    model = networks.shake(networks.chain())
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8, 8, 3)).astype("float32"), np.arange(64) % 4
    result = keras_qcqp.prune(model, {"macs": 0.7}, time_limit_s=1)
    names = {"keras_qcqp": keras_qcqp, "model": model, "result": result}
    names |= {"x_train": x, "y_train": y, "x_val": x, "y_val": y}
    monkeypatch.chdir(tmp_path)
    exec(re.sub(r"epochs=\d+", "epochs=1", block("keras_qcqp.finetune(")), names)
    assert "after the last" in capsys.readouterr().out
    assert keras.models.load_model("small.keras").output_shape == (None, 4)
    assert sorted(p.name for p in Path("steps").iterdir()) == ["step_1", "step_2", "step_3"]


def test_the_example_of_tapering_runs(tmp_path, monkeypatch, capsys):
    model = networks.shake(networks.chain())
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8, 8, 3)).astype("float32"), np.arange(64) % 4
    names = {"keras_qcqp": keras_qcqp, "model": model, "x_train": x, "y_train": y}
    monkeypatch.chdir(tmp_path)
    exec(block("keras_qcqp.taper(").replace("epochs=30", "epochs=2, batch_size=8").replace("0.25", "0.5"), names)
    assert keras_qcqp.measure(names["result"].model)["macs"] <= 0.5 * keras_qcqp.measure(model)["macs"]
    assert capsys.readouterr().out.count("\n") == len(names["result"].points)


def test_the_example_of_costs_runs():
    inner = keras.Input((4, 4, 16), name="inner")
    y = keras.layers.Conv2D(32, 3, activation="relu", name="conv1")(inner)
    stage = keras.Model(inner, keras.layers.Conv2D(8, 1, name="conv2")(y), name="stage2")
    image = keras.Input((4, 4, 3), name="image")
    x = stage(keras.layers.Conv2D(16, 1, name="stem")(image))
    model = networks.shake(keras.Model(image, keras.layers.Dense(3, name="head")(keras.layers.Flatten()(x))))
    names: dict[str, object] = {"model": model}
    exec(block("CostModel"), names)
    result, table = names["result"], names["table"]
    conv = result.model.get_layer("stage2").get_layer("conv1")
    assert result.solution.usage["latency_ns"] == 20 + table[conv.kernel.shape[2], conv.filters] <= 90
    assert "params[stage2/*]" in str(result.report)
    text = re.search(r'# or "(.*)"', block("CostModel")).group(1)
    assert keras_qcqp.Budget.of(text, ["latency_ns"]) == keras_qcqp.Budget.of(names["budget"], ["latency_ns"])


def test_the_example_of_a_problem_from_arrays_runs(capsys):
    names: dict[str, object] = {}
    exec(block("solve_path"), names)
    assert "needs" in capsys.readouterr().out
    objectives = [point.objective for point in names["front"]]
    assert objectives == sorted(objectives)


def test_the_rule_example_is_the_one_that_runs():
    """`test_examples` runs the file."""
    source = (ROOT / "examples/custom_layer.py").read_text().replace("  # noqa: E402", "")
    shown = block("register_rule").removeprefix("import keras_qcqp\n").strip()
    assert f"# README: begin\n{shown}\n" in source
    assert len(shown.splitlines()) < 30


def test_the_example_of_keras_2_runs():
    class Scale(tf_keras.layers.Layer):
        def call(self, x):
            return 2 * x

    class Scale3(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    convolutions = [tf_keras.layers.Conv2D(width, 3) for width in (16, 16, 4)]
    layers = [tf_keras.layers.Input((8, 8, 3)), Scale(), *convolutions]
    names: dict[str, object] = {"old_model": tf_keras.Sequential(layers), "Scale": Scale3}
    exec(block("from_tf_keras"), names)
    assert type(names["result"].model.layers[0]) is Scale3


@pytest.mark.parametrize("path", FILES)
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("line", [x for block in SHELL for x in block.splitlines() if " -m " in x and "_main" in x])
def test_flags_on_the_command_lines_exist(line):
    module = re.search(r"-m (\S+)", line).group(1)
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0
    for flag in re.findall(r"--(\w+)", line):
        assert f"--{flag}" in shown.stdout or f"--[no]{flag}" in shown.stdout
