"""Measures .tflite files on a device: bytes, operators, latency.

Several models take turns, so their times may be compared; the fastest run of each is reported.

Examples:
  One model on this computer, operator by operator, with the memory it needs:
    python -m tflite_tools.profile_main --model=net.tflite --per_op --memory

  Before and after, with ratios; all numbers as JSON, and a picture:
    python -m tflite_tools.profile_main --model=before.tflite --model=after.tflite --output=profile.json --plot=ops.svg

  On an Ethos-U55, as Arm's compiler estimates it, one row for each operator in a table:
    python -m tflite_tools.profile_main --model=net.tflite --device=ethos_u:ethos-u55-128 --per_op --output=ops.csv

  Longer, for steadier minima, without XNNPACK:
    python -m tflite_tools.profile_main --model=net.tflite --rounds=60 --repeats=20 --delegate=builtin
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tflite_tools import command
from tflite_tools.devices.base import DEFAULT_DELEGATE, TimingOptions
from tflite_tools.files import check_writable, write_bytes, write_text

if TYPE_CHECKING:
    from tflite_tools.profiles import Profile

_FLAGS = command.new_flags()
_DEFAULTS = TimingOptions()

_MODELS = flags.DEFINE_multi_string("model", [], "A .tflite file; repeat the flag for more.", flag_values=_FLAGS)
_DEVICE = flags.DEFINE_string("device", "host", "Where to measure; tflite_devices lists them.", flag_values=_FLAGS)
_DELEGATE = flags.DEFINE_string("delegate", DEFAULT_DELEGATE, "Who computes, of the device's.", flag_values=_FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", _DEFAULTS.rounds, "Passes over all models.", flag_values=_FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", _DEFAULTS.repeats, "Runs per model and pass.", flag_values=_FLAGS)
_THREADS = flags.DEFINE_integer("num_threads", _DEFAULTS.num_threads, "Threads per run.", flag_values=_FLAGS)
_WARMUP = flags.DEFINE_integer("warmup", _DEFAULTS.warmup, "Runs before the timed ones.", flag_values=_FLAGS)
_PER_OP = flags.DEFINE_bool("per_op", False, "Also time every operator.", flag_values=_FLAGS)
_MEMORY = flags.DEFINE_bool("memory", False, "Also measure the peak of memory.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write all: .json, or .csv of operators.", flag_values=_FLAGS)
_PLOT = flags.DEFINE_string("plot", None, "Where to draw the time of operators: .svg.", flag_values=_FLAGS)


def main(progress: command.Progress) -> str:
    """Measures as the flags say.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    models = _named(command.required(_MODELS))
    options = TimingOptions(
        rounds=_ROUNDS.value,
        repeats=_REPEATS.value,
        warmup=_WARMUP.value,
        num_threads=_THREADS.value,
        delegate=_DELEGATE.value,
        per_op=_PER_OP.value or bool(_PLOT.value),
        memory=_MEMORY.value,
    )
    _check_outputs()
    with progress(f"Measuring {len(models)} model(s), {options.rounds} rounds x {options.repeats} runs"):
        from tflite_tools.profiling import profile

        profiles = list(profile(models, _DEVICE.value, options).values())
    _write(profiles)
    from tflite_tools.profile_tables import render_ops, render_table

    tables = [render_ops(item) for item in profiles] if _PER_OP.value else []
    return "\n\n".join([str(profiles[0]) if len(profiles) == 1 else render_table(profiles), *tables])


def _check_outputs() -> None:
    for flag, endings in ((_OUTPUT, (".json", ".csv")), (_PLOT, (".svg",))):
        if flag.value:
            if not flag.value.endswith(endings):
                raise command.UsageError(f"--{flag.name}={flag.value} must end with {' or '.join(endings)}")
            check_writable(flag.value)


def _write(profiles: Sequence[Profile]) -> None:
    if _OUTPUT.value and _OUTPUT.value.endswith(".csv"):
        from tflite_tools.profile_tables import ops_csv

        write_text(_OUTPUT.value, ops_csv(profiles))
    elif _OUTPUT.value:
        write_text(_OUTPUT.value, json.dumps({"profiles": [item.to_dict() for item in profiles]}, indent=2) + "\n")
    if _PLOT.value:
        from tflite_tools.profile_plot import plot_ops

        write_bytes(_PLOT.value, plot_ops(profiles))


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Short names where they are distinct, whole paths where they are not."""
    stems = [Path(path).stem for path in paths]
    return {path if stems.count(stem) > 1 else stem: path for path, stem in zip(paths, stems, strict=True)}


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_profile", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
