"""What a file is made of, who can run it, and what is attached: as values and as users start the programs."""

from __future__ import annotations

import json
import re
from importlib import util

import pytest

from tflite_tools.contents import read_contents
from tflite_tools.devices import inventory
from tflite_tools.devices.adb import AttachedDevice
from tflite_tools.devices.inventory import Found, find_devices
from tflite_tools.devices.workers import Outcome
from tflite_tools.errors import DeviceError
from tflite_tools.gpu_worker import read_verdict
from tflite_tools.support import LeftOp, Support, ask_support


@pytest.mark.parametrize(
    "name", ["tiny_int8", "tiny_f32", "tiny_int16x8", "grouped_transposed_int8", "two_inputs_f32", "qat_int8"]
)
def test_bytes_add_up(fixture_model, name):
    found = read_contents(fixture_model(name))
    facts = found.facts
    assert max(op.live_bytes for op in found.ops) == facts.peak_bytes
    assert sum(found.constant_bytes_by_kind.values()) == sum(op.constant_bytes for op in found.ops)
    assert 0 <= facts.weight_bytes - sum(op.constant_bytes for op in found.ops) < 300  # metadata has buffers as well
    assert [op.kind for op in found.ops] == [op.name for op in facts.operators]
    assert found.other_bytes + facts.weight_bytes == facts.size_bytes
    json.dumps(found.to_dict())


def test_an_operator_and_its_tensors(fixture_model):
    found = read_contents(fixture_model("conv3x3_in32_out17_int8"))
    (op,) = found.ops
    assert (op.kind, op.output_shape, op.output_dtype) == ("CONV_2D", (1, 16, 16, 17), "int8")
    assert op.constant_bytes == 17 * 3 * 3 * 32 + 17 * 4
    assert (op.output_bytes, op.live_bytes) == (16 * 16 * 17, 16 * 16 * (17 + 32))
    constants = [tensor for tensor in found.tensors if tensor.is_constant]
    assert sorted(tensor.num_bytes for tensor in constants) == [17 * 4, 17 * 3 * 3 * 32]
    assert all(tensor.op == 0 for tensor in constants)


def test_xnnpack_and_coral(fixture_model):
    data = fixture_model("grouped_transposed_int8").read_bytes()
    found = ask_support(data, "xnnpack")
    if not found.known:
        pytest.skip(found.source)
    assert [op.kind for op in found.left] == ["RELU", "HARD_SWISH", "PRELU"]
    coral = ask_support(data, "coral")
    assert [(op.index, op.kind) for op in coral.left] == [(2, "CONV_2D"), (3, "HARD_SWISH"), (5, "LEAKY_RELU")]
    assert "coral: leaves 3 operators (Coral's documented rules, not the compiler)" in str(coral)


@pytest.mark.skipif(util.find_spec("ethosu") is None, reason="ethos-u-vela is not installed")
def test_ethos_u(fixture_model):
    assert ask_support(fixture_model("tiny_int8").read_bytes(), "ethos_u:ethos-u85-256").left == ()
    found = ask_support(fixture_model("tiny_f32").read_bytes(), "ethos_u")
    assert len(found.left) == 19 and "Conv2D x9: left to the CPU by Vela" in str(found)


def test_targets_by_name(fixture_model, monkeypatch):
    data = fixture_model("tiny_int8").read_bytes()
    with pytest.raises(DeviceError, match="There is no target 'corral'. Did you mean 'coral'?"):
        ask_support(data, "corral")
    with pytest.raises(DeviceError, match="There is no accelerator 'u99'."):
        ask_support(data, "ethos_u:u99")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert "ethos_u: unknown; Ethos-U estimates need" in str(ask_support(data, "ethos_u"))


def test_the_gpu_worker_is_read(fixture_model, monkeypatch):
    from tflite_tools import support

    data = fixture_model("tiny_int8").read_bytes()
    answer = {"known": True, "version": "2.21.0", "nodes": ["3"], "reasons": {"3": "Not supported op ADD"}}
    monkeypatch.setattr(support, "run_worker", lambda *_: Outcome((answer,), "", ""))
    assert ask_support(data, "gpu").left == (LeftOp(3, "ADD", "Not supported op ADD"),)
    monkeypatch.setattr(support, "run_worker", lambda *_: Outcome(({**answer, "known": False},), "", ""))
    assert ask_support(data, "gpu").known is False
    monkeypatch.setattr(support, "run_worker", lambda *_: Outcome((), "was ended by SIGSEGV", "ouch"))
    assert ask_support(data, "gpu").source == "TensorFlow's analyzer was ended by SIGSEGV: ouch"


def test_verdicts_of_the_analyzer():
    good = "\nYour model looks compatible with GPU delegate on TFLite runtime version 2.21.0.\n"
    assert read_verdict(good) == {"known": True, "nodes": [], "reasons": {}}
    bad = (
        "  Op#0 CONV_2D(T#0) -> [T#1]\n  Op#1 SPLIT_V(T#1) -> [T#2]\n"
        "GPU COMPATIBILITY WARNING: Not supported op SPLIT_V\n"
        "GPU COMPATIBILITY WARNING: Subgraph#0 has GPU delegate compatibility issues at nodes 1, 4 on TFLite runtime\n"
    )
    assert read_verdict(bad) == {"known": True, "nodes": ["1", "4"], "reasons": {"1": "Not supported op SPLIT_V"}}
    assert read_verdict("something else")["known"] is False


def test_supports_read_well():
    assert str(Support("gpu", True, "somebody")) == "gpu: takes all operators (somebody)"


def test_the_list_of_devices(monkeypatch):
    def absent():
        raise DeviceError("Android devices need the program 'adb'.")

    monkeypatch.setattr(inventory, "find_adb", absent)
    monkeypatch.setenv("EDGETPU_LIBRARY", "libedgetpu_absent.so")
    monkeypatch.setattr(inventory, "find_compiler", lambda: "")
    found = {item.device.partition(":")[0]: item for item in find_devices()}
    assert list(found) == ["host", "ethos_u", "android", "coral"]
    assert found["host"].can.startswith("latency, operators, memory")
    assert found["android"].missing == "Android devices need the program 'adb'."
    assert "edgetpu_compiler (" in found["coral"].missing and "libedgetpu_absent.so (" in found["coral"].missing
    assert str(found["coral"]).startswith("coral: not usable\n  cpu Edge TPU")


def test_phones_in_the_list(monkeypatch):
    devices = (AttachedDevice("A1", "unauthorized", "Pixel"), AttachedDevice("B2", "device", "Galaxy"))
    facts = {"abi": "arm64-v8a", "device": "Galaxy", "governor": "unknown"}
    monkeypatch.setattr(inventory, "find_adb", lambda: "adb")
    monkeypatch.setattr(inventory, "attached_devices", lambda: devices)
    monkeypatch.setattr(inventory.AndroidDevice, "environment", lambda self: facts)
    monkeypatch.setenv("TFLITE_TOOLS_BINARIES", "/nowhere")
    first, second = inventory._android()
    assert first == Found("android:A1", "", first.missing, {"model": "Pixel"})
    assert "it is unauthorized. Unlock its screen" in first.missing
    assert second.device == "android:B2" and "latest/android_aarch64_benchmark_model" in second.missing
    assert "governor" not in str(second)


def test_the_programs(run_python, fixture_model, tmp_path):
    model = f"--model={fixture_model('tiny_int8')}"
    process = run_python(
        "-m", "tflite_tools.facts_main", model, "--tensors", "--target=coral", f"--output={tmp_path / 'f.json'}"
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "48,864 bytes, 26,400 of them constants, 22,464 names, scales and tables" in process.stdout
    assert re.search(r"\| 18 \| SOFTMAX +\| +2 \| int8\[1, 10\]", process.stdout)
    assert "coral: leaves 1 operators" in process.stdout
    stored = json.loads((tmp_path / "f.json").read_text())
    assert (len(stored["operators"]), stored["arena_bytes"]) == (19, 49152)
    assert stored["support"][0]["left"][0]["kind"] == "FULLY_CONNECTED"
    process = run_python("-m", "tflite_tools.devices_main", f"--output={tmp_path / 'd.json'}", ADB="/no/adb")
    assert (process.returncode, process.stderr) == (0, "")
    assert "Cannot start adb '/no/adb'" in process.stdout
    assert json.loads((tmp_path / "d.json").read_text())["devices"][0]["device"] == "host"


@pytest.mark.slow
def test_tensorflows_analyzer_still_gives_its_verdict(fixture_model):
    found = ask_support(fixture_model("tiny_int8").read_bytes(), "gpu")
    assert found.known and found.left == ()
