"""Prunes a .keras model while it trains: its resources shrink to a budget, and one run leaves the whole curve behind.

Examples:
  python -m keras_qcqp.taper_main --model=net.keras --data=data.npz --output=small.keras --budget=macs=0.3
  python -m keras_qcqp.taper_main --model=net.keras --data=data.npz --output=small.keras \\
      --budget=macs=0.25,params=0.5 --points=0.75,0.5,0.35 --epochs=40 --learning_rate=0.05 --arrive=0.6 \\
      --checkpoint_dir=run --curve_output=curve.json

The data file holds the arrays x_train and y_train, preprocessed as the model wants them, and for validation x_test and
y_test. The original is imitated (--distillation_weight). With --checkpoint_dir the networks at --points are kept there
as point_75.keras and so on, and the same command goes on after the last finished epoch, however the process ended.
--curve_output ends in .json: for every step of the gates what is left of each resource, the loss, and the price of
the resource.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from absl import flags

from keras_qcqp.command_line import Command, UsageError, silent, teller
from keras_qcqp.errors import FileError
from keras_qcqp.files import check_writable, replacing
from keras_qcqp.model_io import load_model
from keras_qcqp.training_flags import define_training_flags, training_arrays, training_settings

_FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "The trained .keras (or .h5) file.", flag_values=_FLAGS)
_DATA = flags.DEFINE_string("data", "", "An .npz file: x_train, y_train, x_test, y_test.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", "", "Where to write the smaller .keras file.", flag_values=_FLAGS)
_BUDGET = flags.DEFINE_string("budget", "", "Limits such as macs=0.3,params=0.5.", flag_values=_FLAGS)
_POINTS = flags.DEFINE_list(
    "points",
    ["0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3"],
    "Shares at which to keep networks.",
    flag_values=_FLAGS,
)
_ARRIVE = flags.DEFINE_float("arrive", 0.6, "Share of the run after which the budget is reached.", flag_values=_FLAGS)
_SPEED = flags.DEFINE_float("speed", 0.03, "How far a gate of usual value moves in a step.", flag_values=_FLAGS)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 0.5, "How much the loss may grow on the way before the taper slows down.", flag_values=_FLAGS
)
_TRAINING = define_training_flags(_FLAGS)
_CHECKPOINT_DIR = flags.DEFINE_string(
    "checkpoint_dir", None, "Where the state is kept after each epoch.", flag_values=_FLAGS
)
_RESUME = flags.DEFINE_bool("resume", True, "Go on from --checkpoint_dir, if anything is there.", flag_values=_FLAGS)
_TENSORBOARD_DIR = flags.DEFINE_string("tensorboard_dir", None, "Where to write curves.", flag_values=_FLAGS)
_CURVE_OUTPUT = flags.DEFINE_string("curve_output", None, "Where to write the curve (.json).", flag_values=_FLAGS)
_QUIET = flags.DEFINE_bool("quiet", False, "No progress and no result on the terminal.", flag_values=_FLAGS)


def _run() -> None:
    if not _OUTPUT.value.endswith(".keras"):
        raise FileError(f"--output must end in .keras, got '{_OUTPUT.value}'.")
    if _CURVE_OUTPUT.value and not _CURVE_OUTPUT.value.endswith(".json"):
        raise FileError(f"--curve_output must end in .json, got '{_CURVE_OUTPUT.value}'.")
    for path in filter(None, (_OUTPUT.value, _CURVE_OUTPUT.value)):
        check_writable(path)
    say, settings, points = teller(_QUIET.value), training_settings(_TRAINING), _numbers(_POINTS.value)
    training, validation = training_arrays(_DATA.value)
    say(f"loading {_MODEL.value}")
    model = load_model(_MODEL.value)
    result = _taper(model, training, validation, settings, points)
    with contextlib.ExitStack() as outputs:  # both are written before the first is renamed
        result.model.save(outputs.enter_context(replacing(_OUTPUT.value)))
        if _CURVE_OUTPUT.value:
            text = json.dumps(_curve(result), indent=1) + "\n"
            outputs.enter_context(replacing(_CURVE_OUTPUT.value)).write_text(text, encoding="utf-8")
    say(f"wrote {_OUTPUT.value}")
    if not _QUIET.value:
        print(result)


def _numbers(texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise UsageError(f"--points must be shares such as 0.75,0.5: {error}.") from error


def _taper(model: Any, training: Any, validation: Any, settings: dict[str, Any], points: list[float]) -> Any:
    from keras_qcqp.tapering.taper import taper

    bar = sys.stderr.isatty() and not _QUIET.value
    with contextlib.redirect_stdout(sys.stderr):  # Keras draws its bar there; standard output holds the result alone
        return taper(
            model,
            training,
            _BUDGET.value,
            points=points,
            tapering={"arrive": _ARRIVE.value, "speed": _SPEED.value, "tolerance": _TOLERANCE.value},
            teacher=model if settings["distillation_weight"] else None,
            validation_data=validation,
            checkpoint_dir=_CHECKPOINT_DIR.value,
            resume=_RESUME.value,
            tensorboard_dir=_TENSORBOARD_DIR.value,
            verbose=int(bar),
            progress=silent if bar else teller(_QUIET.value),
            **settings,
        )


def _curve(result: Any) -> dict[str, Any]:
    points = [{name: getattr(p, name) for name in ("point", "share", "loss", "price")} for p in result.points]
    return {
        "columns": [*result.resources, "loss", "price"],
        "curve": result.curve.tolist(),
        "points": points,
        "history": dict(result.training.history),
    }


_COMMAND = Command(__doc__ or "", _FLAGS, (_MODEL, _DATA, _OUTPUT, _BUDGET), _run)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    return _COMMAND.main(argv)


def run() -> None:
    """Console entry point."""
    _COMMAND.start()


if __name__ == "__main__":
    run()
