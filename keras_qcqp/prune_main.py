"""Prunes a .keras model to hard budgets.

Examples:
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5 --output=out.keras
  python -m keras_qcqp.prune_main --model=in.keras --budget=macs=0.5,params=100000 --output=out.keras \\
      --width_multiple=8 --min_keep=0.25 --plan_output=plan.json --report_output=report.txt
  python -m keras_qcqp.prune_main --model=in.keras --plan=plan.json --output=out.keras   # apply a plan again

A budget in (0, 1] is a fraction of the original, above 1 it is absolute. Known: macs, flops, params, weight_bytes,
activation_bytes. --report_output ends in .txt or .json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from keras_qcqp.errors import FileError, ModelError, QcqpError
from keras_qcqp.files import check_writable, replacing, write_text

_MODEL = flags.DEFINE_string("model", None, "The .keras file to prune.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write the smaller .keras file.", required=True)
_BUDGET = flags.DEFINE_string("budget", None, "Limits such as macs=0.5,params=100000.")
_PLAN = flags.DEFINE_string("plan", None, "A plan to apply, instead of --budget.")
_PLAN_OUTPUT = flags.DEFINE_string("plan_output", None, "Where to write the plan (JSON).")
_REPORT_OUTPUT = flags.DEFINE_string("report_output", None, "Where to write the report (.txt or .json).")
_IMPORTANCE = flags.DEFINE_string("importance", "magnitude", "Importance criterion.")
_MIN_KEEP = flags.DEFINE_float("min_keep", 1, "Least channels of each coupled mask: a count, or a fraction in (0, 1).")
_WIDTH_MULTIPLE = flags.DEFINE_integer("width_multiple", 1, "Kept widths are multiples of this.")
_STRICT = flags.DEFINE_bool("strict", False, "Refuse the model if any part of it would have to be frozen.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search.")
_TIME_LIMIT_S = flags.DEFINE_float("time_limit_s", 60.0, "Wall seconds after which the search starts nothing new.")
_QUIET = flags.DEFINE_bool("quiet", False, "No progress and no report on the terminal.")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    try:
        if len(argv) > 1:
            raise QcqpError(f"Unexpected argument '{argv[1]}'. Every input is a flag; see --help.")
        _run()
    except (QcqpError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def _run() -> None:
    if (_BUDGET.value is None) == (_PLAN.value is None):
        raise QcqpError("Give either --budget (what to reach) or --plan (what to apply).")
    if _PLAN.value is not None and (_PLAN_OUTPUT.value or _REPORT_OUTPUT.value):
        raise QcqpError("--plan_output and --report_output come with --budget, not with --plan.")
    if not _OUTPUT.value.endswith(".keras"):
        raise FileError(f"--output must end in .keras, got '{_OUTPUT.value}'.")
    for path in filter(None, (_OUTPUT.value, _PLAN_OUTPUT.value, _REPORT_OUTPUT.value)):
        check_writable(path)
    say = _silent if _QUIET.value else lambda line: print(line, file=sys.stderr, flush=True)
    say(f"loading {_MODEL.value}")
    model = load_model(_MODEL.value)
    if _PLAN.value is not None:
        from keras_qcqp.plan import Plan
        from keras_qcqp.rebuilder import rebuild

        save_model(rebuild(model, Plan.load(_PLAN.value)), _OUTPUT.value)
    else:
        _prune(model, say)
    say(f"wrote {_OUTPUT.value}")


def _prune(model: Any, say: Callable[[str], None]) -> None:
    from keras_qcqp.pruning import prune

    result = prune(
        model,
        _BUDGET.value or "",
        importance=_IMPORTANCE.value,
        min_keep=_MIN_KEEP.value,
        width_multiple=_WIDTH_MULTIPLE.value,
        strict=_STRICT.value,
        seed=_SEED.value,
        time_limit_s=_TIME_LIMIT_S.value,
        progress=say,
    )
    save_model(result.model, _OUTPUT.value)
    if _PLAN_OUTPUT.value:
        result.plan.save(_PLAN_OUTPUT.value)
    if _REPORT_OUTPUT.value:
        as_json = _REPORT_OUTPUT.value.endswith(".json")
        write_text(_REPORT_OUTPUT.value, result.report.to_json() if as_json else f"{result.report}\n")
    if not _QUIET.value:
        print(result.report)


def load_model(path: str) -> Any:
    """Loads a .keras (or .h5) file in safe mode.

    Raises:
        FileError: the file is missing or unreadable.
        ModelError: it is no intact Keras model.
    """
    if not Path(path).is_file():
        raise FileError(f"Cannot read model '{path}': no such file.")
    import keras

    try:
        return keras.models.load_model(path, safe_mode=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"'{path}' is not a readable Keras model: {reason}. Save it again with model.save('name.keras')."
        ) from error


def save_model(model: Any, path: str) -> None:
    """Writes a .keras file atomically."""
    with replacing(path) as temporary:
        model.save(temporary)


def _silent(line: str) -> None:
    del line


def run() -> None:
    """Console entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
    app.run(main)


if __name__ == "__main__":
    run()
