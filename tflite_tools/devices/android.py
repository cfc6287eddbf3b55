"""Android phones and boards over adb, timed by TensorFlow Lite's own program `benchmark_model`.

What the device says is data from elsewhere: every call has limits on time and size, nothing of it reaches a shell of
this computer, and what goes to the device's shell is quoted.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from tflite_tools.devices import op_tables
from tflite_tools.devices.adb import Connection, RemoteResult, printable
from tflite_tools.devices.android_binary import find_binary
from tflite_tools.devices.base import OpTiming, Timing, TimingOptions
from tflite_tools.devices.benchmark_output import BenchmarkRun, Delegation, read_run, with_result
from tflite_tools.devices.phone_state import PhoneState, cool_down, read_state
from tflite_tools.errors import DeviceError
from tflite_tools.flatbuffer import TfliteFacts

_DELEGATES: Mapping[str, tuple[str, ...]] = {
    "xnnpack": ("--use_xnnpack=true",),
    "builtin": ("--use_xnnpack=false",),
    "gpu": ("--use_gpu=true",),
    "nnapi": ("--use_nnapi=true",),
}
_PASSES = 3  # in which the models take turns
_RUN_SECONDS = 300
_RESULT_LIMIT, _TABLE_LIMIT = 1_000_000, 16_000_000
_PERCENTILE_NOTE = "p10 and p90 are {} here, since this benchmark_model reports no others."


@dataclass(frozen=True)
class AndroidSettings:
    """How a phone is used.

    Attributes:
        mask: CPUs to run on, as `taskset` takes it: hexadecimal, bit 0 is cpu0; "" leaves it to the scheduler.
        binary: a `benchmark_model` for the device's ABI; "" is looked up, see `android_binary`.
        max_cpu_c, cool_down_s: wait for the CPU to be cooler, at most so long.
    """

    mask: str = ""
    binary: str = ""
    max_cpu_c: float = 60.0
    cool_down_s: float = 120.0


class AndroidDevice:
    """One device by its serial number or "host:port"; "" is the only one attached."""

    def __init__(self, serial: str = "", settings: AndroidSettings | None = None) -> None:
        self._serial, self._settings = serial, settings or AndroidSettings()

    @classmethod
    def parse(cls, text: str) -> AndroidDevice:
        """From "SERIAL,mask=f0,binary=FILE,max_cpu_c=50,cool_down_s=60", everything optional.

        Raises:
            DeviceError: an unknown key or a value of the wrong kind.
        """
        serial, *pairs = text.split(",")
        values: dict[str, str | float] = {}
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key not in AndroidSettings.__dataclass_fields__:
                known = ", ".join(AndroidSettings.__dataclass_fields__)
                raise DeviceError(f"android has no option '{key}'. Known: {known}.")
            try:
                values[key] = float(value) if key in ("max_cpu_c", "cool_down_s") else value
                if key == "mask":
                    int(value, 16)
            except ValueError:
                raise DeviceError(
                    f"android: {key}={value} is no {'hexadecimal ' if key == 'mask' else ''}number."
                ) from None
        return cls(serial, AndroidSettings(**values))  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """Can be given to `get_device`."""
        changed = {k: v for k, v in vars(self._settings).items() if v != getattr(AndroidSettings(), k)}
        options = "".join(
            f",{key}={value:g}" if isinstance(value, float) else f",{key}={value}" for key, value in changed.items()
        )
        return f"android:{self._serial}{options}" if self._serial or options else "android"

    def profile(self, models: Mapping[str, bytes], options: TimingOptions) -> dict[str, Timing]:
        """Times all models in three passes in which they take turns; per operator in three further ones.

        Raises:
            DeviceError: no device or no program, it is lost, full or too slow, or a model does not run on it.
        """
        delegate = options.delegate_among(tuple(_DELEGATES), self.name)
        connection = Connection(self._serial)
        binary = find_binary(_property(connection, "ro.product.cpu.abi"), self._settings.binary)
        with _folder(connection) as folder:
            program = f"{folder}/benchmark_model"
            _push(connection, binary, program, executable=True)
            bench = _Bench(connection, folder, program, self._settings, options, delegate)
            paths = bench.push_models(models)
            before, note = cool_down(connection, self._settings.max_cpu_c, self._settings.cool_down_s, sleep)
            turns = [{name: bench.time(path) for name, path in paths.items()} for _ in range(_PASSES)]
            ops = {name: bench.ops(path) if options.per_op else ((), "") for name, path in paths.items()}
            after = read_state(connection)
        heat = {f"cpu_c_{when}": state.cpu_c for when, state in (("before", before), ("after", after)) if state.cpu_c}
        notes = (*([note] if note else ()), *_throttled(after))
        return {
            name: _timing(name, [turn[name] for turn in turns], delegate, ops[name], notes, heat) for name in models
        }

    def notes(self, facts: TfliteFacts) -> tuple[str, ...]:
        """Nothing that depends on the file alone."""
        return ()

    def environment(self) -> dict[str, str]:
        """Model, chip, Android version, ABI, and what decides the speed at the moment."""
        connection = Connection(self._serial)
        keys = {"cpu": "ro.soc.model", "device": "ro.product.model", "android": "ro.build.version.release"}
        keys |= {"sdk": "ro.build.version.sdk", "abi": "ro.product.cpu.abi", "build": "ro.build.fingerprint"}
        facts = {name: _property(connection, key) or "unknown" for name, key in keys.items()}
        return {"serial": connection.serial, **facts, **read_state(connection).described()}


@dataclass(frozen=True)
class _Bench:
    """The program on the device, with what all runs share."""

    connection: Connection
    folder: str
    program: str
    settings: AndroidSettings
    options: TimingOptions
    delegate: str

    def push_models(self, models: Mapping[str, bytes]) -> dict[str, str]:
        paths = {name: f"{self.folder}/m{number}.tflite" for number, name in enumerate(models)}
        with tempfile.TemporaryDirectory(prefix="tflite_tools_") as place:
            for name, data in models.items():
                local = Path(place, Path(paths[name]).name)
                local.write_bytes(data)
                _push(self.connection, local, paths[name])
        return paths

    def time(self, path: str) -> BenchmarkRun:
        """One run without the profiler, from the printed lines and the binary result."""
        result = f"{path}.pb"
        peak = ["--report_peak_memory_footprint=true"] if self.options.memory else []
        run = read_run(self._run(path, [f"--result_file_path={result}", *peak]).text)
        _check_delegate(run.delegation, self.delegate)
        data = self.connection.read(result, _RESULT_LIMIT)
        return with_result(run, data) if data else run

    def ops(self, path: str) -> tuple[tuple[OpTiming, ...], str]:
        """The fastest of each row over the passes; from the CSV file, or the output of a program that writes none."""
        table, found, source = f"{path}.csv", [], "benchmark_model's CSV table"
        arguments = [
            "--enable_op_profiling=true",
            "--op_profiling_output_mode=csv",
            f"--op_profiling_output_file={table}",
        ]
        for _ in range(_PASSES):
            printed = self._run(path, arguments).text
            data = self.connection.read(table, _TABLE_LIMIT)
            source = source if data else "benchmark_model's printed table"
            found.append(op_tables.read_op_table(data.decode("utf-8", "replace") if data else printed))
        return op_tables.merge(found), source

    def _run(self, path: str, extra: Sequence[str]) -> RemoteResult:
        options = self.options
        runs = max(1, options.rounds * options.repeats // _PASSES)
        arguments = [f"--graph={path}", f"--num_threads={options.num_threads}", f"--num_runs={runs}"]
        # By default it also runs for a second, and warms up for half of one, however few runs were asked for.
        arguments += [f"--warmup_runs={max(1, options.warmup)}", "--min_secs=0", "--warmup_min_secs=0"]
        arguments += [*_DELEGATES[self.delegate], *extra]
        command = [*(["taskset", self.settings.mask] if self.settings.mask else []), self.program, *arguments]
        # The program goes on when adb is killed here, so it gets a limit there as well.
        limit = f"if command -v timeout >/dev/null; then exec timeout {_RUN_SECONDS} {shlex.join(command)}; fi; exec "
        answer = self.connection.shell(limit + shlex.join(command), _RUN_SECONDS + 30, _TABLE_LIMIT)
        if answer.status == 124:
            raise DeviceError(f"benchmark_model took more than {_RUN_SECONDS} s on {self.connection.serial}.")
        if answer.status:
            read_failure(answer)
        return answer


def read_failure(answer: RemoteResult) -> None:
    """Raises what a run with another status than 0 means."""
    errors = [printable(line) for line in answer.text.splitlines() if "ERROR" in line or "not found" in line]
    said = " ".join(errors[:3]) or printable(answer.text[-300:]) or "it printed nothing"
    raise DeviceError(f"benchmark_model ended with status {answer.status}: {said}")


def _property(connection: Connection, key: str) -> str:
    return printable(connection.run(["getprop", key]).text, 120)


@contextlib.contextmanager
def _folder(connection: Connection) -> Iterator[str]:
    """A fresh directory on the device that is gone afterwards, if the device is still there."""
    path = f"/data/local/tmp/tflite_tools_{secrets.token_hex(8)}"
    made = connection.run(["mkdir", "-m", "700", path])
    if made.status:
        raise DeviceError(f"Cannot make a directory on {connection.serial}: {printable(made.text)}")
    try:
        yield path
    finally:
        with contextlib.suppress(DeviceError):
            connection.run(["rm", "-rf", path])


def _push(connection: Connection, source: Path, target: str, executable: bool = False) -> None:
    """Copies and compares checksums; devices without `sha256sum` at least have `stat`."""
    connection.push(source, target)
    data = source.read_bytes()
    answer = connection.run(["sha256sum", target], 60)
    expected = hashlib.sha256(data).hexdigest()
    if answer.status == 127:
        answer, expected = connection.run(["stat", "-c", "%s", target]), str(len(data))
    found = answer.text.split()[:1]
    if found != [expected]:
        raise DeviceError(f"'{source.name}' arrived damaged on {connection.serial}; try again, or another cable.")
    if executable and connection.run(["chmod", "700", target]).status:
        raise DeviceError(f"Cannot make '{target}' executable on {connection.serial}.")


def _check_delegate(found: Delegation, asked: str) -> None:
    """GPU and NNAPI fall back to the CPU without an error; a number of the CPU must not carry their name."""
    if asked in ("gpu", "nnapi") and asked.upper() not in found.applied.upper():
        reasons = "; ".join(f"{op}: {why}" for op, why in found.refused[:5])
        raise DeviceError(
            f"The {asked} delegate did not take the model, which would run on the CPU. {reasons or 'No reason given.'} "
            "Use --delegate=xnnpack, or a model of supported operators."
        )


def _timing(
    name: str,
    runs: Sequence[BenchmarkRun],
    delegate: str,
    ops: tuple[tuple[OpTiming, ...], str],
    notes: tuple[str, ...],
    heat: Mapping[str, float],
) -> Timing:
    quickest = min(runs, key=lambda run: run.median_ms)
    first = runs[0]
    said = "p5 and p95" if quickest.has_percentiles else "the fastest and slowest run"
    return Timing(
        latency_ms=min(run.min_ms for run in runs),
        median_ms=quickest.median_ms,
        p10_ms=quickest.low_ms,
        p90_ms=quickest.high_ms,
        num_runs=sum(run.num_runs for run in runs),
        init_ms=first.init_ms,
        first_ms=first.first_ms,
        peak_memory_bytes=first.memory_bytes,
        delegate=delegate,
        ops=ops[0],
        ops_source=ops[1],
        counters=heat,
        notes=(*notes, _PERCENTILE_NOTE.format(said), *_partial(first.delegation)),
    )


def _partial(found: Delegation) -> tuple[str, ...]:
    if not found.applied or found.complete:
        return ()
    count = f"{found.nodes} of {found.total} operators" if found.total else "a part of the operators"
    refused = ", ".join(f"{op} ({why})" for op, why in found.refused[:5])
    return (f"{found.applied} took {count}, the CPU the rest{': ' + refused if refused else ''}.",)


def _throttled(state: PhoneState) -> tuple[str, ...]:
    return (f"at the end {state.hot(float('inf'))}; times are too long.",) if state.throttling else ()
