"""This computer, through the LiteRT interpreter with its default XNNPACK kernels."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.devices.base import Timing, TimingOptions
from tflite_tools.devices.host_ops import measure_memory, measure_ops
from tflite_tools.devices.inputs import random_input
from tflite_tools.devices.interpreters import DELEGATES, load
from tflite_tools.errors import DeviceError, first_line
from tflite_tools.flatbuffer import TfliteFacts

_X86 = ("x86_64", "amd64", "i386", "i686")
_LOW = 0.05
_INT8_NOTE = "host int8 time is no phone proxy: this x86 processor has {} int8 instructions (VNNI), so {}."
_CONSEQUENCES = {True: "a phone gains less from int8", False: "int8 is slower than float32 here, faster on Arm"}
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


@dataclass(frozen=True)
class _Loaded:
    interpreter: Any
    init_ms: float


class HostDevice:
    """Time on the computer that runs this program.

    Block means move by 10 to 20 % on a shared machine, the minimum over interleaved rounds by about 2 %. So
    all models take turns, round by round, and the minimum is the result. With one thread, the 5 % quantile of the time
    of that thread alone counts where it is less: on a busy machine no run of some milliseconds is left in peace. Not
    its minimum, since that clock now and then reads too little, down to nothing at all.
    """

    name = "host"

    @classmethod
    def parse(cls, text: str) -> HostDevice:
        """From what follows "host:", which must be nothing.

        Raises:
            DeviceError: there is something.
        """
        if text:
            raise DeviceError(f"The host is just 'host'; got 'host:{text}'.")
        return cls()

    def profile(self, models: Mapping[str, bytes], options: TimingOptions) -> dict[str, Timing]:
        """Times single runs on seeded random inputs, the models taking turns.

        Raises:
            DeviceError: the interpreter refuses a model, a run fails, or there is no such delegate.
        """
        import ai_edge_litert.interpreter  # noqa: F401 - before any clock starts

        delegate = options.delegate_among(DELEGATES, self.name)
        loaded = {name: _load(name, data, options, delegate) for name, data in models.items()}
        samples = {name: np.empty((options.rounds, options.repeats)) for name in models}
        own, single = {name: np.full_like(values, np.inf) for name, values in samples.items()}, options.num_threads == 1
        first = {name: np.full(max(options.warmup, 1), np.nan) for name in models}
        for name, model in loaded.items():
            _run(name, model.interpreter, first[name][: options.warmup], None)
        for number in range(options.rounds):
            for name, model in loaded.items():
                _run(name, model.interpreter, samples[name][number], own[name][number] if single else None)
        timings = {}
        for name, values in samples.items():
            begin = first[name][0] if options.warmup else values[0, 0]
            timing = _timing(
                values.ravel() * 1e-6, own[name].ravel() * 1e-6, loaded[name].init_ms, begin * 1e-6, delegate
            )
            timings[name] = _with_extras(timing, name, models[name], options, delegate)
        return timings

    def notes(self, facts: TfliteFacts) -> tuple[str, ...]:
        """Warns of int8 times on x86, which say nothing about a phone."""
        misleading = facts.has_int8_activations and platform.machine().lower() in _X86
        fast = "vnni" in _cpu_text()
        return (_INT8_NOTE.format("fast" if fast else "no", _CONSEQUENCES[fast]),) if misleading else ()

    def environment(self) -> dict[str, str]:
        """CPU model and number, its frequency governor, platform, Python and LiteRT versions."""
        return {
            "cpu": _cpu_model(),
            "cpus": str(os.cpu_count()),
            "governor": _text(_GOVERNOR).strip() or "unknown",
            "platform": platform.platform(),
            "python": platform.python_version(),
            "ai_edge_litert": metadata.version("ai-edge-litert"),
        }


def _with_extras(timing: Timing, name: str, data: bytes, options: TimingOptions, delegate: str) -> Timing:
    if options.per_op:
        rows, source, notes = measure_ops(name, data, options, delegate, HostDevice().profile)
        timing = replace(timing, ops=rows, ops_source=source, notes=(*timing.notes, *notes))
    if options.memory:
        size, notes = measure_memory(data, options, delegate)
        timing = replace(timing, peak_memory_bytes=size, notes=(*timing.notes, *notes))
    return timing


def _load(name: str, data: bytes, options: TimingOptions, delegate: str) -> _Loaded:
    random = np.random.default_rng(options.seed)
    begin = time.perf_counter_ns()
    try:
        interpreter = load(data, options.num_threads, delegate)
        init_ms = (time.perf_counter_ns() - begin) * 1e-6
        for detail in interpreter.get_input_details():
            shape, quantized = tuple(detail["shape"]), detail["quantization"][0] != 0.0
            values = random_input(random, shape, np.dtype(detail["dtype"]), quantized)
            interpreter.set_tensor(detail["index"], values)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(f"Model '{name}' does not load on the host: {first_line(error)}") from error
    return _Loaded(interpreter, init_ms)


def _run(name: str, interpreter: Any, nanoseconds: np.ndarray, own: np.ndarray | None) -> None:
    """Runs once per element of `nanoseconds` and stores each duration there, and in `own` that of this thread alone."""
    invoke = _bare_invoke(interpreter)
    clock, thread_clock = time.perf_counter_ns, time.thread_time_ns
    try:
        for index in range(len(nanoseconds)):
            # Read outside of the wall clock, since it is a system call.
            own_begin = thread_clock() if own is not None else 0
            begin = clock()
            invoke()
            nanoseconds[index] = clock() - begin
            if own is not None:
                own[index] = thread_clock() - own_begin
    except (RuntimeError, ValueError) as error:
        raise DeviceError(f"Model '{name}' fails while running on the host: {first_line(error)}") from error
    finally:
        del invoke  # a living reference to the internals blocks later calls on the interpreter


def _bare_invoke(interpreter: Any) -> Callable[[], Any]:
    """The native call; the public `invoke` adds a microsecond or two of checks, much for a small model."""
    return getattr(getattr(interpreter, "_interpreter", None), "Invoke", interpreter.invoke)


def _timing(milliseconds: np.ndarray, own: np.ndarray, init_ms: float, first_ms: float, delegate: str) -> Timing:
    """From the durations of all runs, and those of the thread alone (infinite where they were not taken)."""
    p10, median, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
    # The next value up, never in between: of few runs, too, the very least does not count.
    undisturbed = np.quantile(own, _LOW, method="higher")
    least, count = float(min(milliseconds.min(), undisturbed)), milliseconds.size
    return Timing(least, median, p10, p90, count, init_ms=init_ms, first_ms=float(first_ms), delegate=delegate)


def _cpu_model() -> str:
    """The name on the box; `platform.processor` is empty or only 'x86_64' on most Linux systems."""
    lines = _cpu_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(names, "") or platform.processor() or platform.machine()


def _cpu_text() -> str:
    """What Linux says of the processor; empty elsewhere."""
    return _text("/proc/cpuinfo")


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
