"""Fine-tunes a .keras model on data from an .npz file, and goes on where a killed run stopped.

Examples:
  python -m keras_qcqp.finetune_main --model=pruned.keras --data=data.npz --output=tuned.keras
  python -m keras_qcqp.finetune_main --model=pruned.keras --data=data.npz --output=tuned.keras \\
      --teacher=original.keras --distillation_weight=0.5 --temperature=4 --epochs=40 --learning_rate=0.05 \\
      --checkpoint_dir=run1 --history_output=history.json --tensorboard_dir=curves
  python -m keras_qcqp.finetune_main --model=pruned.keras --data=data.npz --output=tuned.keras \\
      --mixed_precision=bfloat16 --keep=best --quiet
  python -m keras_qcqp.finetune_main --model=original.keras --data=data.npz --output=small.keras \\
      --budget=macs=0.4 --steps=3 --epochs=10 --checkpoint_dir=run2

The data file holds the arrays x_train and y_train, preprocessed as the model wants them, and for validation x_test and
y_test. With --budget the model is the original, which is pruned in steps, each trained by imitation of it. With
--checkpoint_dir the same command goes on after the last finished epoch, however the process ended;
--noresume begins anew. Ctrl-C writes the best model so far. --history_output ends in .json.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from keras_qcqp.command_line import Command, StoppedError, UsageError, silent, teller
from keras_qcqp.errors import FileError
from keras_qcqp.files import check_writable, replacing
from keras_qcqp.model_io import load_model
from keras_qcqp.training_flags import define_training_flags, training_arrays, training_settings

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "The .keras (or .h5) file to fine-tune.", flag_values=_FLAGS)
_DATA = flags.DEFINE_string("data", "", "An .npz file: x_train, y_train, x_test, y_test.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", "", "Where to write the fine-tuned .keras file.", flag_values=_FLAGS)
_TEACHER = flags.DEFINE_string(
    "teacher", None, "The original .keras file, whose outputs are imitated.", flag_values=_FLAGS
)
_BUDGET = flags.DEFINE_string("budget", None, "Prune to this in steps first, for example macs=0.4.", flag_values=_FLAGS)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of pruning and training; with --budget.", flag_values=_FLAGS)
_TRAINING = define_training_flags(_FLAGS)
_CHECKPOINT_DIR = flags.DEFINE_string(
    "checkpoint_dir", None, "Where the state is kept after each epoch.", flag_values=_FLAGS
)
_RESUME = flags.DEFINE_bool("resume", True, "Go on from --checkpoint_dir, if anything is there.", flag_values=_FLAGS)
_TENSORBOARD_DIR = flags.DEFINE_string("tensorboard_dir", None, "Where to write curves.", flag_values=_FLAGS)
_HISTORY_OUTPUT = flags.DEFINE_string(
    "history_output", None, "Where to write all numbers of all epochs (.json).", flag_values=_FLAGS
)
_QUIET = flags.DEFINE_bool("quiet", False, "No progress and no result on the terminal.", flag_values=_FLAGS)


def _run() -> None:
    if not _OUTPUT.value.endswith(".keras"):
        raise FileError(f"--output must end in .keras, got '{_OUTPUT.value}'.")
    if _HISTORY_OUTPUT.value and not _HISTORY_OUTPUT.value.endswith(".json"):
        raise FileError(f"--history_output must end in .json, got '{_HISTORY_OUTPUT.value}'.")
    for path in filter(None, (_OUTPUT.value, _HISTORY_OUTPUT.value)):
        check_writable(path)
    if _BUDGET.value and _TEACHER.value:
        raise UsageError("With --budget the teacher is --model itself: leave --teacher out.")
    say = teller(_QUIET.value)
    settings = training_settings(_TRAINING)
    training, validation = training_arrays(_DATA.value)
    say(f"loading {_MODEL.value}")
    model = load_model(_MODEL.value)
    teacher = load_model(_TEACHER.value) if _TEACHER.value else None
    result = _finetune(model, training, teacher, validation, settings, say)
    with contextlib.ExitStack() as outputs:  # both are written before the first is renamed
        result.model.save(outputs.enter_context(replacing(_OUTPUT.value)))
        if _HISTORY_OUTPUT.value:
            text = json.dumps(_history(result), indent=2) + "\n"
            outputs.enter_context(replacing(_HISTORY_OUTPUT.value)).write_text(text, encoding="utf-8")
    say(f"wrote {_OUTPUT.value}")
    if getattr(result, "interrupted", False):
        raise StoppedError(f"{result}; wrote the best model so far to '{_OUTPUT.value}'")
    if not _QUIET.value:
        print(result)


def _finetune(
    model: Any, training: Any, teacher: Any, validation: Any, settings: dict[str, Any], say: Callable[[str], None]
) -> Any:
    from keras_qcqp.finetuning.iterative import prune_and_finetune
    from keras_qcqp.finetuning.tune import finetune

    bar = sys.stderr.isatty() and not _QUIET.value
    options = {
        "validation_data": validation,
        "checkpoint_dir": _CHECKPOINT_DIR.value,
        "resume": _RESUME.value,
        "tensorboard_dir": _TENSORBOARD_DIR.value,
        "verbose": int(bar),
        "progress": silent if bar else say,
        **settings,
    }
    with contextlib.redirect_stdout(sys.stderr):  # Keras draws its bar there; standard output holds the result alone
        if _BUDGET.value:
            return prune_and_finetune(model, _BUDGET.value, training, steps=_STEPS.value, **options)
        return finetune(model, training, teacher=teacher, **options)


def _history(result: Any) -> Any:
    """Of one training; a list with --budget, an entry for each step."""
    if _BUDGET.value:
        told = ({"limits": step.limits, "usage": step.usage} | _numbers(step.finetuned) for step in result.steps)
        return list(told)
    return _numbers(result)


def _numbers(result: Any) -> dict[str, Any]:
    names = ("monitor", "last", "best", "best_epoch", "interrupted", "history")
    return {name: getattr(result, name) for name in names}


_COMMAND = Command(__doc__ or "", _FLAGS, (_MODEL, _DATA, _OUTPUT), _run)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    return _COMMAND.main(argv)


def run() -> None:
    """Console entry point."""
    _COMMAND.start()


if __name__ == "__main__":
    run()
