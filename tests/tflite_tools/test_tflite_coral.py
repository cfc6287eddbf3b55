"""Coral against recorded logs, an invented compiled file and a stand-in compiler; nothing of the vendor was run."""

from __future__ import annotations

import json

import pytest

from tflite_tools.devices import CoralDevice, TimingOptions, coral, coral_worker, get_device
from tflite_tools.devices.coral import compile_model, unsupported_ops
from tflite_tools.devices.edgetpu_file import Executable, read_compiled
from tflite_tools.devices.edgetpu_log import read_log
from tflite_tools.errors import DeviceError, TfliteFileError
from tflite_tools.profiling import profile

QUICK = TimingOptions(rounds=2, repeats=3, warmup=2)


@pytest.fixture
def log(shared_file):
    return lambda name: shared_file(f"edge_fixtures/coral/{name}").read_text()


@pytest.fixture
def compiled_file(shared_file):
    return shared_file("edge_fixtures/coral/synthetic_edgetpu.tflite")


@pytest.mark.parametrize(
    ("name", "version", "on_tpu", "on_cpu", "cached", "streamed", "subgraphs"),
    [
        ("all_mapped.txt", "16.0.384591198", 33, 0, [357120], [0], [1]),
        ("partly_on_cpu.txt", "16.0.384591198", 23, 27, [3124756], [0], [1]),
        ("partly_on_cpu_without_s.txt", "16.0.384591198", 23, 27, [3124756], [0], [1]),
        ("streaming_overflow.txt", "16.0.384591198", 71, 0, [7161774], [15330181], [1]),
        ("two_models.txt", "16.0.384591198", 61, 0, [2296381, 1866465], [0, 524288], [1, 1]),
        ("segments_delegate_search.txt", "16.0.384591198", 60, 1, [6165627, 3565158], [0, 0], [1, 1]),
        ("version_2_wording.txt", "2.0.267685300", 31, 0, [3470787], [0], [1]),
        ("resnet20_int8_edgetpu.log", "16.0.384591198", 33, 0, [0], [0], [0]),
    ],
)
def test_logs_of_the_compiler(log, name, version, on_tpu, on_cpu, cached, streamed, subgraphs):
    found = read_log(log(name))
    assert (found.version, found.on_tpu, found.on_cpu) == (version, on_tpu, on_cpu)
    assert [model.cached_bytes for model in found.models] == cached
    assert [model.streamed_bytes for model in found.models] == streamed
    assert [model.subgraphs for model in found.models] == subgraphs


def test_operators_of_a_log(log):
    found = read_log(log("partly_on_cpu.txt"))
    assert sum(found.ops.values()) == 50
    assert found.unmapped[("LEAKY_RELU", "Operation not supported")] == 11
    assert found.unmapped[("CONV_2D", "More than one subgraph is not supported")] == 12
    assert sum(found.unmapped.values()) == 27
    assert read_log(log("version_2_wording.txt")).models[0].remaining_bytes == 1814036


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("error_op_version.txt", "operator CONV_2D has version 6, newer than the compiler knows; grouped convolutions"),
        ("error_not_quantized.txt", "15.0.340273435 failed: the model is not quantized; convert it with recipe int8."),
        ("error_large_activations.txt", "its activations do not fit on the chip"),
        ("error_internal.txt", "the compiler failed inside; try edgetpu_compiler -d"),
    ],
)
def test_failures_are_explained(log, name, message):
    with pytest.raises(DeviceError) as caught:
        read_log(log(name))
    assert message in str(caught.value)


def test_other_text_is_no_log():
    with pytest.raises(DeviceError, match="This is no output of edgetpu_compiler"):
        read_log("sh: edgetpu_compiler: not found")


def test_facts_of_a_compiled_file(compiled_file, fixture_model):
    found = read_compiled(compiled_file.read_bytes())
    assert (found.compiler, found.min_runtime) == ("16.0", 13)
    assert found.executables == (
        Executable("execution-only", 2368, 9216, 0),
        Executable("parameter-caching", 8192, 1024, 0),
    )
    assert (found.cached_bytes, found.streamed_bytes) == (8192, 2368)
    with pytest.raises(TfliteFileError, match="holds no 'edgetpu-custom-op'"):
        read_compiled(fixture_model("tiny_int8").read_bytes())


@pytest.mark.parametrize("size", [16, 40, 400, 9000])
def test_a_cut_package_is_an_error(compiled_file, size):
    data = compiled_file.read_bytes()
    with pytest.raises(TfliteFileError, match="The package of the Edge TPU compiler is damaged"):
        read_compiled(data[data.find(b"DWN1") - 4 :][:size])


@pytest.mark.parametrize(
    ("name", "count", "reason"),
    [
        ("tiny_f32", 19, "data type float32; everything must be int8"),
        ("tiny_int8", 1, "weights are quantized per channel; one scale is expected"),
        ("grouped_transposed_int8", 3, "operation version 6 is newer than the compiler knows"),
        ("qat_int8", 11, "dynamic shape; convert with a fixed batch of 1"),
        ("tiny_int16x8", 19, "data type int16; everything must be int8"),
        ("conv3x3_in32_out17_int8", 0, None),
    ],
)
def test_rules_before_compiling(fixture_model, name, count, reason):
    found = unsupported_ops(fixture_model(name).read_bytes())
    assert len(found) == count, found
    assert reason is None or reason in found.values()


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A stand-in that prints a recorded log and copies a file to where the compiler would write."""

    def make(log, made=None, status=0):
        program = tmp_path / "edgetpu_compiler"
        copy = f'cp "{made}" "$3/model_edgetpu.tflite"' if made else "true"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{copy}\ncat "{log}"\nexit {status}\n')
        program.chmod(0o755)
        monkeypatch.setenv("EDGETPU_COMPILER", str(program))
        return program

    return make


def test_compiling(compiler, shared_file, compiled_file, fixture_model, tmp_path):
    compiler(shared_file("edge_fixtures/coral/all_mapped.txt"), compiled_file)
    found = compile_model("net", fixture_model("tiny_int8").read_bytes())
    assert found.data == compiled_file.read_bytes()
    assert (found.log.on_tpu, found.file.cached_bytes) == (33, 8192)
    assert (tmp_path / "arguments").read_text().split()[:2] == ["-s", "-o"]


def test_a_failing_compiler(compiler, shared_file, fixture_model, tmp_path, monkeypatch):
    data = fixture_model("tiny_int8").read_bytes()
    compiler(shared_file("edge_fixtures/coral/error_internal.txt"), status=1)
    with pytest.raises(
        DeviceError, match=r"Model 'net': edgetpu_compiler 16.0.384591198 failed: the compiler failed inside"
    ):
        compile_model("net", data)
    compiler(shared_file("edge_fixtures/coral/all_mapped.txt"), status=3)
    with pytest.raises(DeviceError, match="ended with status 3 on model 'net' and wrote no file"):
        compile_model("net", data)
    monkeypatch.setattr(coral, "_COMPILER_SECONDS", 0.2)
    compiler("/dev/zero")
    with pytest.raises(DeviceError, match="edgetpu_compiler on model 'net': (no answer in|more than)"):
        compile_model("net", data)
    monkeypatch.setenv("EDGETPU_COMPILER", str(tmp_path / "none"))
    with pytest.raises(DeviceError, match="Cannot start '.*none': No such file or directory."):
        compile_model("net", data)
    monkeypatch.delenv("EDGETPU_COMPILER")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(DeviceError, match="Compiling for the Edge TPU needs Google's edgetpu_compiler"):
        compile_model("net", data)


def test_without_the_library_the_error_says_what_to_install(compiled_file, monkeypatch):
    monkeypatch.setenv("EDGETPU_LIBRARY", "libedgetpu_absent.so.9")
    with pytest.raises(
        DeviceError, match=r"No Edge TPU can be used: OSError: libedgetpu_absent.so.9: cannot open .*plug the"
    ):
        profile(compiled_file, "coral", QUICK)


def test_runs_take_turns_and_the_rest_is_arithmetic(compiled_file, fixture_model, monkeypatch):
    """The worker with the CPU in the place of the chip, and its answer in the place of the worker's."""
    monkeypatch.setattr("ai_edge_litert.interpreter.load_delegate", lambda library: None)
    paths = {name: str(fixture_model("tiny_int8")) for name in ("a", "b")}
    request = {"library": "x", "models": paths, "rounds": 2, "repeats": 3, "warmup": 2, "seed": 0}
    assert {name: len(times) for name, times in coral_worker.measure(request).items()} == {"a": 8, "b": 8}
    millisecond = 1_000_000
    monkeypatch.setattr(coral, "_measure", lambda *_: {"net": [n * millisecond for n in (9, 4, 3, 1, 2, 3, 2, 2)]})
    found = profile({"net": compiled_file}, "coral", QUICK)["net"]
    assert (found.first_ms, found.latency_ms, found.median_ms, found.num_runs) == (9, 1, 2, 6)
    assert found.counters == {"cached_bytes": 8192, "streamed_bytes": 2368}
    assert found.notes == ("2,368 bytes of parameters do not fit on the chip and are fetched for every inference.",)
    assert found.environment["cpu"] == "Edge TPU" and json.loads(found.to_json())["delegate"] == "edgetpu"


def test_what_the_chip_does_not_offer(compiled_file):
    with pytest.raises(DeviceError, match="The Edge TPU tells no times of single operators"):
        profile(compiled_file, CoralDevice(), TimingOptions(per_op=True))
    with pytest.raises(DeviceError, match="The Edge TPU is just 'coral'; got 'coral:1'."):
        get_device("coral:1")
