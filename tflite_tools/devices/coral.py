"""Coral Edge TPU: Google's compiler run and understood, and times of a stick or board where there is one.

Never run by us with the vendor's programs; the README says what was tested against what.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tflite_tools.devices.base import Timing, TimingOptions
from tflite_tools.devices.bounded import TooMuchError, TooSlowError, run_bounded
from tflite_tools.devices.edgetpu_file import CUSTOM_OP, CompiledFile, read_compiled
from tflite_tools.devices.edgetpu_log import CompilerLog, read_log
from tflite_tools.devices.edgetpu_rules import reasons
from tflite_tools.devices.workers import run_worker
from tflite_tools.errors import DeviceError
from tflite_tools.flatbuffer import TfliteFacts, read_facts
from tflite_tools.latency.flat_graph import read_graph

_COMPILER_SECONDS, _COMPILER_OUTPUT = 200.0, 1_000_000  # its own limit is 180 s
_WORKER_SECONDS = 600.0
_LIBRARIES = {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}
_STREAMING_NOTE = "{:,} bytes of parameters do not fit on the chip and are fetched for every inference."


@dataclass(frozen=True)
class Compilation:
    """What the compiler made of a model and said about it."""

    data: bytes
    log: CompilerLog
    file: CompiledFile


class CoralDevice:
    """The Edge TPU of this computer."""

    name = "coral"

    @classmethod
    def parse(cls, text: str) -> CoralDevice:
        """From what follows "coral:", which must be nothing.

        Raises:
            DeviceError: there is something.
        """
        if text:
            raise DeviceError(f"The Edge TPU is just 'coral'; got 'coral:{text}'.")
        return cls()

    def profile(self, models: Mapping[str, bytes], options: TimingOptions) -> dict[str, Timing]:
        """Compiles what is not compiled yet, and times all models taking turns.

        Raises:
            DeviceError: compiler, library or chip are missing or refuse a model; operators cannot be timed one by one.
        """
        delegate = options.delegate_among(("edgetpu",), self.name)
        if options.per_op:
            raise DeviceError("The Edge TPU tells no times of single operators. Ask without per_op.")
        compiled = {name: self.prepare(name, data) for name, data in models.items()}
        times = _measure({name: data for name, (data, _) in compiled.items()}, options)
        return {name: _timing(times[name], compiled[name][1], options, delegate) for name in models}

    def prepare(self, name: str, data: bytes) -> tuple[bytes, CompiledFile]:
        """The compiled form of a model and its facts.

        Raises:
            DeviceError: see `compile_model`.
            TfliteFileError: a compiled file is damaged.
        """
        if CUSTOM_OP in read_facts(data).op_counts:
            return data, read_compiled(data)
        made = compile_model(name, data)
        return made.data, made.file

    def notes(self, facts: TfliteFacts) -> tuple[str, ...]:
        """Nothing that depends on the file alone."""
        return ()

    def environment(self) -> dict[str, str]:
        """Compiler and library, as far as they are found."""
        return {
            "cpu": "Edge TPU",
            "edgetpu_compiler": find_compiler() or "not found",
            "edgetpu_library": edgetpu_library(),
        }


def find_compiler() -> str:
    """$EDGETPU_COMPILER or the PATH; "" where there is none."""
    return os.environ.get("EDGETPU_COMPILER") or shutil.which("edgetpu_compiler") or ""


def edgetpu_library() -> str:
    """$EDGETPU_LIBRARY, or the name the system looks up."""
    return os.environ.get("EDGETPU_LIBRARY") or _LIBRARIES.get(sys.platform, "libedgetpu.so.1")


def unsupported_ops(data: bytes) -> dict[int, str]:
    """Operator number -> why it cannot run on the Edge TPU, by Coral's documented rules."""
    facts = read_facts(data)
    return reasons(read_graph(data), {number: op.version for number, op in enumerate(facts.operators)})


def compile_model(name: str, data: bytes) -> Compilation:
    """Runs `edgetpu_compiler`.

    Raises:
        DeviceError: it is missing, too slow, or fails; with what that means.
    """
    program = find_compiler()
    if not program:
        raise DeviceError(
            "Compiling for the Edge TPU needs Google's edgetpu_compiler (Linux on x86-64): see "
            "https://coral.ai/docs/edgetpu/compiler, or set EDGETPU_COMPILER to its path."
        )
    with tempfile.TemporaryDirectory(prefix="edgetpu_") as place:
        Path(place, "model.tflite").write_bytes(data)
        command = [program, "-s", "-o", place, str(Path(place, "model.tflite"))]
        try:
            answer = run_bounded(command, _COMPILER_SECONDS, _COMPILER_OUTPUT, cwd=place)
        except (TooSlowError, TooMuchError) as error:
            raise DeviceError(f"edgetpu_compiler on model '{name}': {error}.") from error
        except OSError as error:
            raise DeviceError(f"Cannot start '{program}': {error.strerror or error}.") from error
        try:
            log = read_log(answer.text)
        except DeviceError as error:
            raise DeviceError(f"Model '{name}': {error}") from error
        made = Path(place, "model_edgetpu.tflite")
        if answer.status or not made.is_file():
            raise DeviceError(
                f"edgetpu_compiler ended with status {answer.status} on model '{name}' and wrote no file."
            )
        compiled = made.read_bytes()
    return Compilation(compiled, log, read_compiled(compiled))


def _measure(models: Mapping[str, bytes], options: TimingOptions) -> dict[str, list[int]]:
    with tempfile.TemporaryDirectory(prefix="edgetpu_") as place:
        paths = {name: str(Path(place, f"m{number}.tflite")) for number, name in enumerate(models)}
        for name, data in models.items():
            Path(paths[name]).write_bytes(data)
        numbers = {key: getattr(options, key) for key in ("rounds", "repeats", "warmup", "seed")}
        request = {"library": edgetpu_library(), "models": paths, **numbers}
        outcome = run_worker("tflite_tools.devices.coral_worker", request, _WORKER_SECONDS)
    if outcome.fault:
        raise DeviceError(
            f"The process with the Edge TPU library {outcome.fault}. Google's build of {edgetpu_library()} crashes "
            "with newer runtimes; name another by EDGETPU_LIBRARY, such as those of https://github.com/feranick/libedgetpu."
        )
    (answer,) = outcome.answers
    if isinstance(answer.get("error"), str):
        raise DeviceError(
            f"No Edge TPU can be used: {answer['error']}. Install its runtime "
            "(https://coral.ai/docs/accelerator/get-started) and plug the stick in."
        )
    return answer


def _timing(nanoseconds: list[int], file: CompiledFile, options: TimingOptions, delegate: str) -> Timing:
    first, *_ = nanoseconds
    steady = np.array(nanoseconds[max(1, options.warmup) :]) * 1e-6
    p10, median, p90 = (float(value) for value in np.percentile(steady, (10, 50, 90)))
    streamed = file.streamed_bytes
    return Timing(
        *(float(steady.min()), median, p10, p90),
        num_runs=len(steady),
        first_ms=first * 1e-6,
        delegate=delegate,
        counters={"cached_bytes": file.cached_bytes, "streamed_bytes": streamed},
        notes=(_STREAMING_NOTE.format(streamed),) if streamed else (),
    )
