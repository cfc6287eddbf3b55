"""Ethos-U estimates are exact: the same files give the figures that Vela 5.2.0 wrote into the shared fixtures."""

from __future__ import annotations

import csv
from importlib import metadata, util

import pytest

from tflite_tools.devices import EthosUDevice, TimingOptions, get_device
from tflite_tools.errors import DeviceError
from tflite_tools.profiling import profile

needs_vela = pytest.mark.skipif(util.find_spec("ethosu") is None, reason="ethos-u-vela is not installed")
PER_OP = TimingOptions(per_op=True)


@pytest.fixture(scope="module")
def estimates(fixture_model):
    names = ("conv3x3_in32_out17_int8", "tiny_int8", "tiny_f32", "tiny_int16x8", "grouped_transposed_int8")
    models = {name: fixture_model(name).read_bytes() for name in names}
    return EthosUDevice().estimate({**models, "again": models["tiny_int8"]})


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@needs_vela
def test_estimates_are_those_of_the_command(estimates, shared_file):
    if metadata.version("ethos-u-vela") != "5.2.0":
        pytest.skip("the fixtures are of Vela 5.2.0")
    (summary,) = read_csv(shared_file("edge_fixtures/vela/tiny_int8_summary_Ethos_U55_High_End_Embedded.csv"))
    found = estimates["tiny_int8"]
    assert found.cycles == int(summary["cycles_total"]) == 140_882
    assert found.ms == pytest.approx(float(summary["inference_time"]) * 1000)
    assert found.sram_bytes == float(summary["sram_memory_used"]) * 1024
    assert found.flash_bytes == float(summary["off_chip_flash_memory_used"]) * 1024
    assert found.counters["nn_macs"] == int(summary["nn_macs"])
    rows = read_csv(shared_file("edge_fixtures/vela/tiny_int8_per-layer.csv"))
    assert [(op.kind, op.cycles, op.name) for op in found.ops] == [
        (row["NNG Operator"], int(row["Op Cycles"]), row["Name"]) for row in rows
    ]
    assert estimates["conv3x3_in32_out17_int8"].cycles == 20_132  # a step of the staircase in edge.md


@needs_vela
def test_rows_add_up_and_repeat(estimates):
    for found in estimates.values():
        assert sum(op.cycles for op in found.ops) == found.cycles
    assert estimates["again"] == estimates["tiny_int8"]


@needs_vela
@pytest.mark.parametrize("accelerator", ["ethos-u65-256", "ethos-u85-256"])
def test_other_families(fixture_model, accelerator):
    device = get_device(f"ethos_u:{accelerator}")
    (found,) = device.estimate({"net": fixture_model("tiny_int8").read_bytes()}).values()
    assert 0 < sum(op.cycles for op in found.ops) == found.cycles
    assert found.ms == pytest.approx(found.cycles / 1e6)  # both defaults run at 1 GHz
    assert found.dram_bytes > 0


@needs_vela
def test_settings_matter(fixture_model, estimates):
    device = get_device("ethos_u:ethos-u55-128,system_config=Ethos_U55_Deep_Embedded,memory_mode=Sram_Only")
    assert device.environment()["memory_mode"] == "Sram_Only"
    (found,) = device.estimate({"net": fixture_model("tiny_int8").read_bytes()}).values()
    assert found.cycles < estimates["tiny_int8"].cycles < found.ms * 1e6


@needs_vela
def test_less_sram_costs_cycles(fixture_model, estimates):
    """The activations alone need 49,152 bytes; what is above buffers weights."""
    device = get_device("ethos_u:ethos-u55-128,arena_cache_bytes=50000")
    (found,) = device.estimate({"net": fixture_model("tiny_int8").read_bytes()}).values()
    assert found.sram_bytes <= 50_000 < estimates["tiny_int8"].sram_bytes == 52_000
    assert found.cycles > estimates["tiny_int8"].cycles


@needs_vela
def test_a_profile(fixture_model):
    device = EthosUDevice("ethos-u55-128")
    result = profile(fixture_model("tiny_int8"), device, PER_OP)
    assert (result.device, result.num_runs, result.latency_ms) == ("ethos_u:ethos-u55-128", 1, 0.281764)
    assert result.latency_ms == result.p10_ms == result.median_ms == result.p90_ms
    assert "an estimate of Arm's compiler" in str(result)


@needs_vela
@pytest.mark.parametrize("name", ["tiny_f32", "tiny_float16", "tiny_dynamic"])
def test_float_files_are_refused_by_operator(fixture_model, name):
    with pytest.raises(DeviceError) as caught:
        profile(fixture_model(name), "ethos_u")
    assert f"Model '{name}' leaves all operators to the CPU (" in str(caught.value)
    assert "Conv2D x9" in str(caught.value) and "convert with recipe int8." in str(caught.value)


@needs_vela
def test_a_crash_is_an_error_that_names_the_model(fixture_model):
    good = fixture_model("conv3x3_in32_out17_int8").read_bytes()
    with pytest.raises(DeviceError, match="Vela was ended by SIGSEGV at model 'cut'. Its last words: .*inconsistent"):
        EthosUDevice().estimate({"good": good, "cut": good[:100], "other": good})


def test_without_vela_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"pip install 'keras-qcqp\[ethos_u\]'"):
        EthosUDevice().estimate({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ethos_u:ethos-u99-1", "There is no accelerator 'ethos-u99-1'. Did you mean 'ethos-u"),
        (
            "ethos_u:ethos-u55-128,clock=3",
            "ethos_u has no option 'clock'. Known: system_config, memory_mode, arena_cache_bytes.",
        ),
        ("ethos_u:ethos-u55-128,arena_cache_bytes=big", "ethos_u: arena_cache_bytes=big is no number of bytes."),
        ("ethos_u:ethos-u55-128,arena_cache_bytes=0", "arena_cache_bytes is 0; a size above 0 is expected."),
        ("ethos_u:ethos-u55-128,memory_mode=Sram_Only", "both or none of system_config and memory_mode; got system"),
        (
            "ethos_u:ethos-u55-64,system_config=Ethos_U65_High_End,memory_mode=Sram_Only",
            "There is no system configuration for ethos-u55 'Ethos_U65_High_End'. Did you mean 'Ethos_U55_High_End_",
        ),
        (
            "ethos_u:ethos-u85-512,system_config=Ethos_U85_SYS_DRAM_Low,memory_mode=Shared",
            "There is no memory mode 'Shared'. Did you mean 'Shared_Sram'?",
        ),
    ],
)
def test_names_are_checked_before_anything_runs(text, message):
    with pytest.raises(DeviceError) as caught:
        get_device(text)
    assert message in str(caught.value)


def test_a_name_makes_the_same_device_again():
    for text in (
        "ethos_u:ethos-u65-512",
        "ethos_u:ethos-u55-128,arena_cache_bytes=4096",
        "ethos_u:ethos-u55-32,system_config=Ethos_U55_Deep_Embedded,memory_mode=Shared_Sram",
    ):
        assert get_device(text).name == text
    assert get_device("ethos_u").name == "ethos_u:ethos-u55-128"


@needs_vela
def test_other_delegates_are_refused(fixture_model):
    with pytest.raises(DeviceError, match="Device 'ethos_u:ethos-u55-128' has no delegate 'gpu'. Known: npu."):
        profile(fixture_model("tiny_int8"), "ethos_u", TimingOptions(delegate="gpu"))
