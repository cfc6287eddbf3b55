"""Android from end to end: a real adb client and server, a peer on loopback for the phone, LiteRT for the program.

This proves the protocol, the order of events and the handling of faults; nothing here has seen a phone.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from adb_peer import AdbPeer, Phone

from tflite_tools.devices import AndroidDevice, TimingOptions, get_device
from tflite_tools.devices.adb import attached_devices, find_adb
from tflite_tools.devices.android import AndroidSettings
from tflite_tools.errors import DeviceError
from tflite_tools.profiling import profile

HERE = Path(__file__).parent
QUICK = TimingOptions(rounds=3, repeats=2, warmup=1)
GETPROP = """case $1 in
ro.product.cpu.abi) echo arm64-v8a;; ro.product.model) echo Peer;; ro.soc.model) echo Chip;;
esac"""
COOL = "echo 'HAL Ready: true'; echo 'Thermal Status: 0'"


@pytest.fixture(scope="module")
def adb(tmp_path_factory):
    """The program, with a server and keys of its own; the user's are left alone."""
    try:
        program = find_adb()
    except DeviceError:
        pytest.skip("no adb here; pip install adbutils brings one")
    with socket.create_server(("127.0.0.1", 0)) as free, pytest.MonkeyPatch.context() as patch:
        port = free.getsockname()[1]
        free.close()
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("ADB_MDNS", "0")
        yield program
        subprocess.run([program, "kill-server"], capture_output=True, timeout=20, check=False)


@pytest.fixture
def one_pass(monkeypatch):
    from tflite_tools.devices import android

    monkeypatch.setattr(android, "_PASSES", 1)


@pytest.fixture
def attach(adb, tmp_path, monkeypatch):
    """Makes a phone with the program in place; gives (phone, serial)."""
    peers = []
    place = tmp_path / "binaries/arm64-v8a"
    place.mkdir(parents=True)
    stand_in = f'PYTHONPATH="{HERE.parents[1]}" exec {sys.executable} {HERE}/benchmark_stand_in.py "$@"'
    (place / "benchmark_model").write_text(f"#!/bin/sh\n{stand_in}\n")
    monkeypatch.setenv("TFLITE_TOOLS_BINARIES", str(tmp_path / "binaries"))

    def make(**faults) -> tuple[Phone, str]:
        phone = Phone(tmp_path / f"phone{len(peers)}", **faults)
        phone.program("getprop", GETPROP)
        phone.program("dumpsys", COOL)
        peers.append(AdbPeer(phone).start())
        return phone, peers[-1].serial

    yield make
    for peer in peers:
        subprocess.run([adb, "disconnect", peer.serial], capture_output=True, timeout=20, check=False)
        peer.close()


@pytest.mark.parametrize("is_old", [False, True])
def test_two_models_over_the_air(attach, fixture_model, monkeypatch, is_old):
    from tflite_tools.devices import android

    monkeypatch.setattr(android, "_PASSES", 2)
    phone, serial = attach(is_old=is_old)
    options = TimingOptions(rounds=3, repeats=2, warmup=1, per_op=is_old)
    models = {"float": fixture_model("tiny_f32"), "two words; $(touch x)": fixture_model("tiny_int8")}
    results = profile(models, f"android:{serial},mask=1,cool_down_s=0", options)
    found = results["two words; $(touch x)"]
    assert 0 < found.latency_ms <= found.median_ms
    assert (found.num_runs, found.delegate) == (6, "xnnpack")
    assert found.init_ms > 0 and found.peak_memory_bytes == int(2.25 * 2**20)
    assert (found.environment["abi"], found.environment["device"], found.environment["cpu"]) == (
        "arm64-v8a",
        "Peer",
        "Chip",
    )
    assert found.environment["serial"] == serial and found.environment["throttling"] == "none"
    assert any("p10 and p90 are the fastest and slowest run here" in note for note in found.notes)
    if is_old:
        assert found.ops_source == "benchmark_model's CSV table"
        assert [op.kind for op in found.ops[:2]] == ["Convolution (NHWC, QC8) IGEMM"] * 2
    assert phone.left_behind() == []
    turns = [c for c in phone.commands if "--num_runs" in c and "profiling" not in c]
    assert ["m0" in c for c in turns] == [True, False] * 2  # taking turns
    assert all("exec timeout 300 taskset 1 /data/local/tmp/tflite_tools_" in c for c in turns)


def test_the_only_device_needs_no_name(one_pass, attach, fixture_model):
    _, serial = attach()
    with pytest.raises(DeviceError, match="No Android device is attached. Attached: none. Switch on USB debugging"):
        profile(fixture_model("tiny_f32"), "android", QUICK)
    subprocess.run([find_adb(), "connect", serial], capture_output=True, timeout=20, check=True)
    assert profile(fixture_model("tiny_f32"), "android", QUICK).environment["serial"] == serial
    _, other = attach()
    subprocess.run([find_adb(), "connect", other], capture_output=True, timeout=20, check=True)
    assert {d.serial for d in attached_devices()} == {serial, other}
    with pytest.raises(DeviceError, match="Several Android devices are attached: .* Name one: android:127"):
        profile(fixture_model("tiny_f32"), "android", QUICK)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"authorised": False}, "is (un)?authoriz(ed|ing). Unlock its screen and accept 'Allow USB debugging'"),
        ({"free_bytes": 10_000}, r"has no space for 110,980 bytes in /data/local/tmp/tflite_tools_"),
        ({"lost_after_bytes": 60_000}, "The connection to device .* failed .* it is .* [Tt]ry again"),
        ({"lost_at": "--num_runs"}, "The connection to device .* failed .* it is .* [Tt]ry again"),
        ({"damages": True}, "'benchmark_model' arrived damaged on"),
    ],
)
def test_faults_are_errors_that_say_what_to_do(attach, fixture_model, faults, message):
    _, serial = attach(**faults)
    with pytest.raises(DeviceError, match=message):
        profile(fixture_model("tiny_f32"), f"android:{serial}", QUICK)


def test_a_missing_program_is_named(attach, fixture_model, monkeypatch, tmp_path):
    phone, serial = attach()
    phone.program("getprop", "echo x86_64")
    with pytest.raises(DeviceError, match=r"No benchmark_model for x86_64: .* bazel build .*--config=android_x86_64"):
        profile(fixture_model("tiny_f32"), f"android:{serial}", QUICK)


def test_a_model_that_does_not_load(attach, shared_file):
    phone, serial = attach()
    with pytest.raises(
        DeviceError, match="benchmark_model ended with status 1: ERROR: Failed to load model /.*/m0.tflite"
    ):
        AndroidDevice(serial).profile({"bad": b"no model"}, QUICK)
    assert phone.left_behind() == []


def test_a_gpu_that_takes_nothing_is_no_success(attach, fixture_model):
    _, serial = attach()
    options = TimingOptions(rounds=1, delegate="gpu")
    with pytest.raises(DeviceError, match="gpu delegate did not take the model.* UNPACK: Operation is not supported"):
        profile(fixture_model("tiny_f32"), f"android:{serial}", options)


def test_a_program_that_hangs_is_stopped(attach, fixture_model, monkeypatch):
    from tflite_tools.devices import android

    monkeypatch.setattr(android, "_RUN_SECONDS", 1)
    phone, serial = attach()
    phone.program("taskset", "sleep 60")
    with pytest.raises(DeviceError, match="benchmark_model took more than 1 s"):
        profile(fixture_model("tiny_f32"), f"android:{serial},mask=f", QUICK)
    assert phone.left_behind() == []


def test_a_flood_of_output_is_stopped(attach, fixture_model, monkeypatch):
    from tflite_tools.devices import android

    monkeypatch.setattr(android, "_TABLE_LIMIT", 100_000)
    phone, serial = attach()
    phone.program("taskset", "head -c 3000000 /dev/zero")
    with pytest.raises(DeviceError, match="more than 100,000 bytes of output"):
        profile(fixture_model("tiny_f32"), f"android:{serial},mask=f", QUICK)


def test_a_hot_phone_is_waited_for(one_pass, attach, fixture_model, monkeypatch, tmp_path):
    from tflite_tools.devices import android

    waits = []
    monkeypatch.setattr(android, "sleep", waits.append)
    phone, serial = attach()
    sensor = "Temperature{mValue=71.5, mType=0, mName=CPU0, mStatus=0}"
    phone.program("dumpsys", f"echo 'Current temperatures from HAL:'; echo '{sensor}'")
    device = AndroidDevice(serial, AndroidSettings(max_cpu_c=50.0, cool_down_s=10.0))
    found = profile(fixture_model("tiny_f32"), device, QUICK)
    assert waits == [5.0, 5.0]
    assert any("after 10 s of waiting its CPU has 72 C, above 50" in note for note in found.notes)
    assert dict(found.counters) == {"cpu_c_before": 71.5, "cpu_c_after": 71.5}


def test_without_adb_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delenv("ADB", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"platform-tools, or pip install 'keras-qcqp\[android\]'"):
        find_adb()
    monkeypatch.setenv("ADB", "/no/such/adb")
    with pytest.raises(DeviceError, match="Cannot start adb '/no/such/adb': No such file or directory."):
        attached_devices()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("android:x,core=3", "android has no option 'core'. Known: mask, binary, max_cpu_c, cool_down_s."),
        ("android:x,mask=fast", "android: mask=fast is no hexadecimal number."),
        ("android:x,cool_down_s=long", "android: cool_down_s=long is no number."),
    ],
)
def test_options_are_checked_before_anything_runs(text, message):
    with pytest.raises(DeviceError) as caught:
        get_device(text)
    assert str(caught.value) == message


def test_a_name_makes_the_same_device_again():
    for text in ("android", "android:192.168.0.7:5555", "android:R58,mask=f0,binary=/x/y,max_cpu_c=45"):
        assert get_device(text).name == text
