"""Profiles as values, interleaved measurement, and refusals. No test asserts a wall time."""

import json

import pytest

from tflite_tools.devices import DEVICES, Device, HostDevice, Timing, TimingOptions, get_device
from tflite_tools.devices.base import OpTiming
from tflite_tools.errors import DeviceError, ProfileError, TfliteFileError
from tflite_tools.profile_tables import ops_csv, render_ops, render_table
from tflite_tools.profiles import Comparison, Profile
from tflite_tools.profiling import compare_latency, profile

QUICK = TimingOptions(rounds=3, repeats=4, warmup=1)


def make_profile(**changes) -> Profile:
    values = dict(
        name="net",
        device="host",
        latency_ms=0.1 + 0.2,  # a float without a short decimal form
        median_ms=0.5,
        p10_ms=0.4,
        p90_ms=0.7,
        num_runs=300,
        num_threads=1,
        size_bytes=2000,
        weight_bytes=1500,
        op_counts={"CONV_2D": 2, "ADD": 1},
        environment={"cpu": "Some CPU"},
        notes=("a note",),
    )
    return Profile(**{**values, **changes})


class FakeDevice:
    """Returns one millisecond per byte."""

    name = "fake"

    def profile(self, models, options):
        return {name: Timing(float(len(data)), 2.0, 1.0, 3.0, options.rounds) for name, data in models.items()}

    def notes(self, facts):
        return ()

    def environment(self):
        return {"cpu": "none"}


def test_one_model_by_path(fixture_model):
    result = profile(fixture_model("tiny_int8"), options=QUICK)
    assert (result.name, result.device, result.num_runs, result.num_threads) == ("tiny_int8", "host", 12, 1)
    assert 0 < result.latency_ms <= result.p10_ms <= result.median_ms <= result.p90_ms
    assert (result.size_bytes, result.weight_bytes) == (48_864, 26_400)
    assert result.op_counts["CONV_2D"] == 9
    assert result.environment.keys() == {"cpu", "cpus", "governor", "platform", "python", "ai_edge_litert"}
    assert result.init_ms > 0 and result.first_ms > 0
    assert (result.delegate, result.ops, result.peak_memory_bytes) == ("xnnpack", (), None)
    assert all(result.environment.values())


def test_several_models_by_name(fixture_model):
    models = {"float": fixture_model("tiny_f32"), "bytes": fixture_model("two_inputs_f32").read_bytes()}
    results = profile(models, options=QUICK)
    assert list(results) == ["float", "bytes"]
    assert [item.name for item in results.values()] == ["float", "bytes"]
    assert results["bytes"].size_bytes == 1836


@pytest.mark.parametrize(
    "name", ["tiny_float16", "tiny_dynamic", "tiny_int16x8", "qat_int8", "grouped_transposed_int8"]
)
def test_every_kind_of_file_runs(fixture_model, name):
    assert profile(fixture_model(name), options=TimingOptions(rounds=1, repeats=1, warmup=0)).num_runs == 1


def test_models_take_turns(fixture_model, monkeypatch):
    from tflite_tools.devices import host

    turns = []
    monkeypatch.setattr(host, "_run", lambda name, _, durations, __: turns.append(name) or durations.fill(1.0))
    data = fixture_model("two_inputs_f32").read_bytes()
    HostDevice().profile({"a": data, "b": data}, TimingOptions(rounds=3, warmup=1))
    assert turns == ["a", "b"] * 4


def test_the_minimum_is_reported(fixture_model, monkeypatch):
    from tflite_tools.devices import host

    def run(name, interpreter, nanoseconds, own):
        nanoseconds[:] = [4e6, 1e6, 2e6, 100e6, 3e6][: len(nanoseconds)]

    monkeypatch.setattr(host, "_run", run)
    data = {"a": fixture_model("two_inputs_f32").read_bytes()}
    timing = HostDevice().profile(data, TimingOptions(rounds=2, repeats=5))["a"]
    assert (timing.latency_ms, timing.median_ms, timing.num_runs) == (1.0, 3.0, 10)


def test_a_thread_clock_that_reads_too_little_is_not_believed(fixture_model, monkeypatch):
    """Of interrupted runs the thread's time counts, but not its least: now and then that is nothing at all."""
    from tflite_tools.devices import host

    def run(name, interpreter, nanoseconds, own):
        nanoseconds[:] = 9e6  # every run was interrupted
        if own is not None:
            own[:] = [0.0, 3e6, 4e6, 2e6, 5e6][: len(own)]

    monkeypatch.setattr(host, "_run", run)
    data = {"a": fixture_model("two_inputs_f32").read_bytes()}
    for threads, expected in ((1, 2.0), (2, 9.0)):
        timing = HostDevice().profile(data, TimingOptions(rounds=1, repeats=5, num_threads=threads))["a"]
        assert timing.latency_ms == expected and timing.median_ms == 9.0


def test_int8_on_x86_carries_a_note(fixture_model, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "host int8 time is no phone proxy" in str(profile(fixture_model("tiny_int8"), options=QUICK))
    assert profile(fixture_model("tiny_f32"), options=QUICK).notes == ()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert profile(fixture_model("tiny_int8"), options=QUICK).notes == ()


def test_compare_latency_shows_bytes_times_and_ratios(fixture_model):
    result = compare_latency(fixture_model("tiny_f32"), fixture_model("tiny_int8"), options=QUICK)
    assert result.size_ratio == pytest.approx(110_980 / 48_864)
    assert result.latency_ratio == result.before.latency_ms / result.after.latency_ms
    text = str(result)
    assert "110,980" in text and "48,864" in text and "2.27x" in text
    assert f"{result.latency_ratio:.2f}x" in text
    assert "fastest of 12 runs, taking turns; 1 thread(s) on host, " in text


def test_the_table_is_plain_text_whatever_the_name():
    text = render_table([make_profile(name="[red]net[/red]"), make_profile(latency_ms=0.15, size_bytes=500)])
    assert text.isascii()
    assert "[red]net[/red]" in text
    assert "4.00x" in text and "2.00x" in text
    assert "note: net: a note" in text


def test_a_profile_reads_well():
    assert str(make_profile(latency_ms=0.25)).splitlines() == [
        "net on host (1 thread, Some CPU)",
        "  latency   0.2500 ms, the fastest of 300 runs",
        "            median 0.5000, p10 0.4000, p90 0.7000 ms",
        "  size      2,000 bytes, 1,500 of them constants",
        "  operators 3: CONV_2D x2, ADD x1",
        "  note      a note",
    ]


def test_json_round_trip_is_exact():
    original = make_profile()
    assert Profile.from_json(original.to_json()) == original
    assert list(Profile.from_json(original.to_json()).op_counts) == ["CONV_2D", "ADD"]


def test_profiles_of_the_first_format_are_still_read():
    stored = make_profile().to_dict()
    for name in ("delegate", "init_ms", "first_ms", "peak_memory_bytes", "ops", "ops_source", "counters"):
        del stored[name]
    stored["format"] = "tflite_tools.profile/1"
    assert Profile.from_json(json.dumps(stored)) == make_profile()


OPS = (OpTiming("CONV_2D", "a, b", 0.2, node=0, cycles=1000), OpTiming("ADD", "c" * 99, 0.05, calls=2.0))


def test_rows_of_operators_survive_json_and_read_well():
    original = make_profile(ops=OPS, ops_source="a compiler", counters={"sram_bytes": 5.0}, peak_memory_bytes=7)
    assert Profile.from_json(original.to_json()) == original
    lines = render_ops(original).splitlines()
    assert lines[0] == "net, operator by operator (a compiler):"
    assert lines[-1] == "sum 0.2500 ms; the whole takes 0.3000 ms"
    assert lines[4].split("|")[1:-1] == [" CONV_2D  ", " 0.2000 ", " 80.0% ", "     1 ", "  1,000 ", f" a, b{' ' * 57}"]
    assert "c" * 57 + "..." in lines[5]
    assert "memory    7 bytes at the peak" in str(original) and "sram_bytes 5" in str(original)
    rows = ops_csv([original, make_profile()]).splitlines()
    assert rows[1] == 'net,host,0,CONV_2D,"a, b",0.2,0.8,1.0,0,1000'
    assert rows[3].startswith("net,host,,whole,,0.30000000000000004,1.0,1")


def test_profiles_cannot_be_changed():
    counts = {"CONV_2D": 2}
    stored = make_profile(op_counts=counts)
    counts["CONV_2D"] = 3
    assert stored.op_counts == {"CONV_2D": 2}
    with pytest.raises(TypeError):
        stored.op_counts["CONV_2D"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other/2"), "has format 'other/2', expected 'tflite_tools.profile/2'."),
        (lambda d: d.update(ops=[{"kind": "ADD"}]), "A row of 'ops' of the profile is {'kind': 'ADD'}"),
        (lambda d: d.pop("num_runs"), "lacks fields ['num_runs'] and has unknown fields []."),
        (lambda d: d.update(extra=1), "lacks fields [] and has unknown fields ['extra']."),
        (
            lambda d: d.update(size_bytes="big"),
            "Field 'size_bytes' of the profile is 'big', which has the wrong type.",
        ),
    ],
)
def test_foreign_json_is_refused(change, message):
    stored = make_profile().to_dict()
    change(stored)
    with pytest.raises(ProfileError) as caught:
        Profile.from_json(json.dumps(stored))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_text_that_is_no_profile_is_refused(text):
    with pytest.raises(ProfileError, match="The profile (is no JSON|has format None)"):
        Profile.from_json(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0; a whole number of at least 1 is expected."),
        ({"repeats": 2.5}, "repeats is 2.5; a whole number of at least 1 is expected."),
        ({"num_threads": True}, "num_threads is True; a whole number of at least 1 is expected."),
        ({"per_op": 1}, "per_op is 1; True or False is expected."),
        ({"delegate": ""}, "delegate is ''; a name is expected."),
        ({"warmup": -1}, "warmup is -1; a whole number of at least 0 is expected."),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ProfileError, match=message):
        TimingOptions(**options)


def test_default_options_follow_the_protocol():
    assert TimingOptions().rounds >= 20
    assert TimingOptions().repeats == 10
    assert TimingOptions().num_threads == 1


def test_devices_are_found_by_name_or_taken_as_they_are(fixture_model):
    assert all(isinstance(get_device(name), Device) for name in DEVICES)
    result = profile(fixture_model("two_inputs_f32"), FakeDevice(), QUICK)
    assert (result.device, result.latency_ms, result.num_runs) == ("fake", 1836.0, 3)
    with pytest.raises(DeviceError, match="There is no device 'hots'. Did you mean 'host'?"):
        get_device("hots")
    with pytest.raises(DeviceError, match="The host is just 'host'; got 'host:x'."):
        get_device("host:x")
    with pytest.raises(DeviceError, match="A device is a name or has name, profile, notes and environment; got 3."):
        get_device(3)


def test_models_that_do_not_run_here(shared_file):
    with pytest.raises(DeviceError, match="Model 'net' does not load on the host: .*edgetpu-custom-op"):
        profile({"net": shared_file("edge_fixtures/coral/synthetic_edgetpu.tflite")}, options=QUICK)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ProfileError, match="There is nothing to measure"):
        profile({})
    with pytest.raises(TfliteFileError, match="Cannot read '.*none.tflite'"):
        profile(tmp_path / "none.tflite")
    with pytest.raises(ProfileError, match=r"compare_latency\(\) measures models, got the Profile 'net'."):
        compare_latency(make_profile(), make_profile())


def test_comparison_of_stored_values():
    result = Comparison(make_profile(latency_ms=3.0, size_bytes=900), make_profile(latency_ms=1.5, size_bytes=300))
    assert (result.latency_ratio, result.size_ratio) == (2.0, 3.0)
