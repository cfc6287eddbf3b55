"""What phones and `benchmark_model` print, in the forms of several years."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite_tools.devices import op_tables
from tflite_tools.devices.adb import AttachedDevice, parse_devices, printable
from tflite_tools.devices.android_binary import find_binary
from tflite_tools.devices.benchmark_output import read_run, with_result
from tflite_tools.devices.phone_state import PhoneState, parse_battery, parse_governors, parse_thermal, parse_zones
from tflite_tools.errors import DeviceError


@pytest.fixture
def recorded(shared_file):
    return lambda name: shared_file(f"edge_fixtures/{name}").read_text()


@pytest.mark.parametrize(
    ("name", "runs", "least", "median", "init", "memory"),
    [
        ("text_info_prefix_profile", 998, 0.978, 0.996318, 4.12, 5124097),
        ("text_percentiles_partial_delegation", 50, 600.412, 601.098, 401.25, 25427968),
        ("text_no_prefix", 998, 0.978, 0.996318, 4.12, 5124097),
        ("text_logcat", 998, 0.978, 0.996318, 4.12, None),
        ("text_gpu", 122, 8.029, 8.1519, 355.447, None),
    ],
)
def test_runs_of_all_years(recorded, name, runs, least, median, init, memory):
    found = read_run(recorded(f"benchmark_model/{name}.txt"))
    assert (found.num_runs, found.min_ms, found.init_ms) == (runs, least, init)
    assert found.median_ms == pytest.approx(median)
    assert found.low_ms <= found.median_ms <= found.high_ms
    assert found.has_percentiles == (name == "text_percentiles_partial_delegation")
    assert found.memory_bytes == memory


def test_delegations(recorded):
    gpu = read_run(recorded("benchmark_model/text_gpu.txt")).delegation
    assert (gpu.applied, gpu.complete, gpu.nodes, gpu.total) == ("GPU", False, 17, 19)
    refused = read_run(recorded("benchmark_model/text_logcat.txt")).delegation
    assert refused.applied == ""
    assert refused.refused == (("UNPACK", "Operation is not supported."),)
    partial = read_run(recorded("benchmark_model/text_percentiles_partial_delegation.txt")).delegation
    assert (partial.applied, partial.complete) == ("XNNPACK", False)


def test_a_failed_run_says_why(recorded):
    with pytest.raises(DeviceError, match=r"did not measure: .*Failed to load model /data/local/tmp/kq/none.tflite"):
        read_run(recorded("benchmark_model/error_missing_model.txt"))
    with pytest.raises(DeviceError, match="it printed nothing"):
        read_run("")


def test_the_binary_result_has_more_digits(recorded, shared_file):
    printed = read_run(recorded("benchmark_model/text_info_prefix_profile.txt"))
    found = with_result(printed, shared_file("edge_fixtures/benchmark_model/result.pb").read_bytes())
    assert (found.min_ms, found.median_ms, found.low_ms, found.high_ms) == pytest.approx((0.978, 0.99, 0.98, 1.03))
    assert found.has_percentiles and found.memory_bytes == 5004 * 1024
    assert with_result(printed, b"") == printed
    with pytest.raises(DeviceError, match=r"result.pb \(3 bytes\) is damaged"):
        with_result(printed, b"\x0a\xff\xff")


@pytest.mark.parametrize(
    ("name", "count", "kind", "total", "last"),
    [
        ("text_info_prefix_profile.txt", 7, "Convolution (NHWC, QC8) IGEMM", 0.958, ("SOFTMAX", 18)),
        ("profile_without_start.csv", 7, "Convolution (NHWC, QC8) IGEMM", 0.958, ("SOFTMAX", 18)),
        ("text_tabs_start_column.txt", 5, "DEPTHWISE_CONV_2D", 2.315, ("RESIZE_BILINEAR", 4)),
        ("profile_with_start.csv", 5, "DEPTHWISE_CONV_2D", 2.315, ("RESIZE_BILINEAR", 4)),
    ],
)
def test_operator_tables_of_all_years(recorded, name, count, kind, total, last):
    rows = op_tables.read_op_table(recorded(f"benchmark_model/{name}"))
    assert (len(rows), rows[1].kind) == (count, kind)
    assert sum(op.ms for op in rows) == pytest.approx(total)
    assert (rows[-1].kind, rows[-1].node) == last


def test_calls_and_commas_in_names(recorded):
    rows = op_tables.read_op_table(recorded("benchmark_model/text_info_prefix_profile.txt"))
    assert (rows[3].kind, rows[3].calls) == ("Fully Connected (NC, QS8, QC8W) GEMM", 4)
    assert rows[3].ms == pytest.approx(4 * 0.084)
    rows = op_tables.read_op_table(recorded("benchmark_model/profile_with_start.csv"))
    assert (rows[3].name, rows[3].node) == ("demo/pw2/Relu6, demo/head", 31)


def test_passes_are_merged_by_their_fastest(recorded):
    rows = op_tables.read_op_table(recorded("benchmark_model/profile_with_start.csv"))
    slower = tuple(type(op)(op.kind, op.name, op.ms * 2, op.calls, op.node) for op in rows)
    assert op_tables.merge([slower, rows, rows[:2]]) == rows


@pytest.mark.parametrize("text", ["", "no table", "=== Run Order ===", "=== Run Order ===\n[a] [b] [c] [d]\n"])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(DeviceError, match=r"printed no table of operators|has columns"):
        op_tables.read_op_table(text)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300))
def test_whatever_a_device_says_ends_in_a_value_or_a_device_error(text):
    for reader in (read_run, op_tables.read_op_table):
        with pytest.raises(DeviceError):
            reader(text)
    for reader in (parse_battery, parse_thermal, parse_zones, parse_governors, parse_devices):
        reader(text)
    assert printable(text).isprintable() and len(printable(text)) <= 300


def test_heat_battery_and_governors(recorded):
    battery = parse_battery(recorded("adb/dumpsys_battery.txt"))
    assert (battery.battery_c, battery.battery_percent, battery.charging) == (30.4, 81, True)
    thermal = parse_thermal(recorded("adb/dumpsys_thermalservice.txt"))
    assert (thermal.cpu_c, thermal.skin_c, thermal.battery_c, thermal.throttling) == (62.4, 37.2, 30.4, 0)
    assert parse_thermal(recorded("adb/dumpsys_thermalservice_no_hal.txt")) == PhoneState()
    governors = parse_governors(recorded("adb/cpu_governors.txt"))
    assert len(governors) == 7 and governors["cpu4"] == ("schedutil", 2419200)
    assert parse_zones("battery 30400\ncpu-0-1 45200\ncpu-1 47\nsoc 90000\ncpu-off -273000\n") == 47
    described = PhoneState(throttling=3, cpu_c=62.4, governors=governors).described()
    assert described["governor"] == "schedutil" and described["throttling"] == "severe"
    assert described["fastest_cpu_mhz"] == "2419" and described["battery_c"] == "unknown"
    assert PhoneState(throttling=2).hot(50) == "it throttles (moderate)"
    assert PhoneState(cpu_c=62.4).hot(60) == "its CPU has 62 C, above 60"


def test_lists_of_devices():
    text = (
        "* daemon not running; starting now at tcp:5037\nList of devices attached\n"
        "R58M123        device usb:1-1 product:beyond1 model:SM_G973F device:beyond1 transport_id:1\n"
        "emulator-5554\toffline\n0123 no permissions (user in plugdev group); see [x]\nabc unauthorized usb:1\n\n"
    )
    first, *others = parse_devices(text)
    assert first == AttachedDevice("R58M123", "device", "SM_G973F") and first.help == ""
    assert [(d.serial, d.state) for d in others] == [
        ("emulator-5554", "offline"),
        ("0123", "no permissions"),
        ("abc", "unauthorized"),
    ]
    assert "accept 'Allow USB debugging'" in others[2].help


def elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little")


def test_the_program_is_found_by_abi(tmp_path, monkeypatch):
    monkeypatch.setenv("TFLITE_TOOLS_BINARIES", str(tmp_path))
    with pytest.raises(DeviceError) as caught:
        find_binary("arm64-v8a")
    assert "latest/android_aarch64_benchmark_model" in str(caught.value)
    assert f"put it at {tmp_path}/arm64-v8a/benchmark_model" in str(caught.value)
    place = tmp_path / "arm64-v8a"
    place.mkdir()
    (place / "benchmark_model").write_bytes(elf(183))
    assert find_binary("arm64-v8a") == place / "benchmark_model"
    with pytest.raises(
        DeviceError, match="is for arm64-v8a, but the device needs armeabi-v7a. Fetch .*android_arm_bench"
    ):
        find_binary("armeabi-v7a", str(place / "benchmark_model"))
    (place / "benchmark_model").write_bytes(b"<html>")
    with pytest.raises(DeviceError, match="is no program for Android, but the device needs arm64-v8a"):
        find_binary("arm64-v8a")
    with pytest.raises(DeviceError, match="Build benchmark_model of TensorFlow Lite for riscv64"):
        find_binary("riscv64")
