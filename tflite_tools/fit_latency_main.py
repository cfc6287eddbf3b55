"""Measures what the operators of a .tflite file cost at every width, and writes a latency file to prune with.

Examples:
  The network that is to be pruned, on this computer:
    python -m tflite_tools.fit_latency_main --model=net_int8.tflite --output=latency.json

  Longer, for steadier minima; Ctrl-C and the same command again goes on where it was:
    python -m tflite_tools.fit_latency_main --model=net_int8.tflite --output=latency.json --seconds=120 --resume

  An Arm Ethos-U, estimated by Vela at every multiple of 8:
    python -m tflite_tools.fit_latency_main --model=net_int8.tflite --device=ethos_u:ethos-u55-128 --multiple=8 \\
        --output=u55.json

  Then prune with it:
    python -m keras_qcqp.prune_main --model=net.keras --budget=latency_ms=50%@latency.json --output=pruned.keras
"""

from __future__ import annotations

import os
import sys

from absl import flags

from tflite_tools import command
from tflite_tools.files import check_writable

_FLAGS = command.new_flags()
_MODEL = flags.DEFINE_string("model", None, "The .tflite file of the network as it is.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write the latency file (JSON).", flag_values=_FLAGS)
_DEVICE = flags.DEFINE_string("device", "host", "Where to measure.", flag_values=_FLAGS)
_SECONDS = flags.DEFINE_float("seconds", 20.0, "About how long to measure in all.", flag_values=_FLAGS)
_MULTIPLE = flags.DEFINE_integer(
    "multiple", None, "Measure every multiple of this width instead of a few points.", flag_values=_FLAGS
)
_THREADS = flags.DEFINE_integer("num_threads", 1, "Threads per run.", flag_values=_FLAGS)
_DELEGATE = flags.DEFINE_string(
    "delegate", "default", "Who computes, by a name of the device: xnnpack, gpu, ...", flag_values=_FLAGS
)
_HELD_OUT = flags.DEFINE_integer("num_held_out", 8, "Whole networks that only judge the fit.", flag_values=_FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the widths that are measured.", flag_values=_FLAGS)
_RESUME = flags.DEFINE_bool(
    "resume", False, "Keep measurements beside the output, and go on with those that are there.", flag_values=_FLAGS
)


def main(progress: command.Progress) -> str:
    """Fits as the flags say.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    model, output = command.required(_MODEL), command.required(_OUTPUT)
    check_writable(output)
    from tflite_tools.latency.fitting import FitOptions, fit_latency

    options = FitOptions(
        seconds=_SECONDS.value,
        multiple=_MULTIPLE.value,
        num_held_out=_HELD_OUT.value,
        num_threads=_THREADS.value,
        delegate=_DELEGATE.value,
        seed=_SEED.value,
    )
    journal = f"{output}.samples" if _RESUME.value else None
    with progress("Starting") as status:
        tell = status.update if hasattr(status, "update") else lambda line: print(line, file=sys.stderr, flush=True)
        fitted = fit_latency(model, _DEVICE.value, options, journal, tell)
    fitted.save(output)
    if journal and os.path.exists(journal):
        os.remove(journal)  # all of it is in the output
    return str(fitted)


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_fit_latency", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
