"""Measures .tflite files on this computer: bytes, operators, latency.

Several models take turns, so their times may be compared; the fastest run of each is reported.

Examples:
  One model:
    python -m tflite_tools.profile_main --model=net.tflite

  Before and after, with ratios, and the numbers as JSON:
    python -m tflite_tools.profile_main --model=before.tflite --model=after.tflite --json_output=profile.json

  Longer, for steadier minima:
    python -m tflite_tools.profile_main --model=net.tflite --rounds=60 --repeats=20 --num_threads=1
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tflite_tools import command
from tflite_tools.devices.base import TimingOptions
from tflite_tools.files import check_writable, write_text

_FLAGS = command.new_flags()
_DEFAULTS = TimingOptions()

_MODELS = flags.DEFINE_multi_string("model", [], "A .tflite file; repeat the flag for more.", flag_values=_FLAGS)
_DEVICE = flags.DEFINE_string("device", "host", "Where to measure.", flag_values=_FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", _DEFAULTS.rounds, "Passes over all models.", flag_values=_FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", _DEFAULTS.repeats, "Runs per model and pass.", flag_values=_FLAGS)
_THREADS = flags.DEFINE_integer("num_threads", _DEFAULTS.num_threads, "Threads per run.", flag_values=_FLAGS)
_JSON = flags.DEFINE_string("json_output", None, "Where to write the profiles as JSON.", flag_values=_FLAGS)


def main(progress: command.Progress) -> str:
    """Measures as the flags say.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    models = _named(command.required(_MODELS))
    options = TimingOptions(rounds=_ROUNDS.value, repeats=_REPEATS.value, num_threads=_THREADS.value)
    if _JSON.value:
        check_writable(_JSON.value)
    with progress(f"Measuring {len(models)} model(s), {options.rounds} rounds x {options.repeats} runs"):
        from tflite_tools.profiling import profile

        profiles = list(profile(models, _DEVICE.value, options).values())
    if _JSON.value:
        write_text(_JSON.value, json.dumps({"profiles": [item.to_dict() for item in profiles]}, indent=2) + "\n")
    if len(profiles) == 1:
        return str(profiles[0])
    from tflite_tools.profiles import render_table

    return render_table(profiles)


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Short names where they are distinct, whole paths where they are not."""
    stems = [Path(path).stem for path in paths]
    return {path if stems.count(stem) > 1 else stem: path for path, stem in zip(paths, stems, strict=True)}


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_profile", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
