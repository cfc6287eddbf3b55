"""Operators and memory on the host: the C library's profiler, and what happens without it."""

from __future__ import annotations

from importlib import metadata

import pytest

from tflite_tools.devices import TimingOptions
from tflite_tools.devices.host_ops import PROFILER, SLICES
from tflite_tools.devices.workers import run_worker
from tflite_tools.errors import DeviceError
from tflite_tools.flatbuffer import op_outputs, read_facts
from tflite_tools.profiling import profile

QUICK = TimingOptions(rounds=2, repeats=3, warmup=1, per_op=True)
tried = pytest.mark.skipif(
    not metadata.version("ai-edge-litert").startswith("2."), reason="the C interface was tried with LiteRT 2"
)


@tried
@pytest.mark.parametrize("name", ["tiny_int8", "two_inputs_f32", "qat_int8"])
def test_builtin_kernels_are_the_nodes_of_the_file(fixture_model, name):
    options = TimingOptions(rounds=2, repeats=3, per_op=True, delegate="builtin")
    result = profile(fixture_model(name), options=options)
    facts = read_facts(fixture_model(name))
    assert [(op.kind, op.node) for op in result.ops] == [(op.name, i) for i, op in enumerate(facts.operators)]
    assert [op.name for op in result.ops] == op_outputs(fixture_model(name).read_bytes())
    assert (result.ops_source, result.delegate) == (PROFILER, "builtin")
    assert all(op.ms >= 0 for op in result.ops)


@tried
def test_xnnpack_has_rows_of_its_own(fixture_model):
    result = profile(fixture_model("tiny_int8"), options=QUICK)
    assert [op.kind for op in result.ops[:2]] == ["Convolution (NHWC, QC8) IGEMM"] * 2
    assert result.ops[-1].kind == "SOFTMAX" and result.ops[-1].node == 18
    assert result.ops[0].node is None
    assert any("a little slower" in note for note in result.notes)


def test_without_the_profiler_operators_are_cut_out(fixture_model, monkeypatch):
    from tflite_tools.devices import host_ops
    from tflite_tools.devices.workers import Outcome

    monkeypatch.setattr(host_ops, "run_worker", lambda *_: Outcome((), "was ended by SIGSEGV", ""))
    result = profile(fixture_model("tiny_int8"), options=QUICK)
    assert [op.node for op in result.ops] == list(range(19))
    assert [op.kind for op in result.ops].count("DEPTHWISE_CONV_2D") == 4
    assert all(op.ms > 0 for op in result.ops)
    assert result.ops_source == SLICES
    assert any("not available (it was ended by SIGSEGV)" in note for note in result.notes)


def test_an_untried_library_is_not_called(monkeypatch):
    from tflite_tools.devices import litert_profiler

    monkeypatch.setattr(litert_profiler.metadata, "version", lambda _: "3.0.1")
    with pytest.raises(litert_profiler.ProfilerMissingError, match="ai-edge-litert 3.0.1 was not tried"):
        litert_profiler.LitertProfiler("x", [], 1, "xnnpack")


def test_memory_grows_with_the_model(fixture_model):
    options = TimingOptions(rounds=1, repeats=1, memory=True)
    found = profile({"net": fixture_model("tiny_int8")}, options=options)["net"].peak_memory_bytes
    if found is None:
        pytest.skip("no /proc/self/status here")
    assert found > read_facts(fixture_model("tiny_int8")).weight_bytes


def test_delegates_of_the_host(fixture_model):
    assert profile(fixture_model("tiny_f32"), options=TimingOptions(rounds=1, delegate="builtin")).delegate == "builtin"
    with pytest.raises(DeviceError, match="Device 'host' has no delegate 'gpu'. Known: xnnpack, builtin."):
        profile(fixture_model("tiny_f32"), options=TimingOptions(delegate="gpu"))


@pytest.mark.parametrize(
    ("module", "fault", "words"),
    [("no.such.module", "ended with status 1", "No module named"), ("this", "gave no answer", "those!")],
)
def test_workers_say_how_they_ended(module, fault, words):
    outcome = run_worker(module, {}, 60)
    assert (outcome.answers, outcome.fault) == ((), fault)
    assert words in outcome.last_words


def test_workers_are_stopped():
    assert run_worker("http.server", {}, 0.5).fault.startswith("took more than")
