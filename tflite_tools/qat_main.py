"""Trains a Keras model with simulated quantization and writes the int8 .tflite file.

The training runs in a process of its own, which needs tensorflow-model-optimization:
  python3.11 -m venv qat && qat/bin/pip install 'keras-qcqp[qat]'

Examples:
  Three epochs on x_train and y_train of an .npz file, imitating the network before it was pruned:
    python -m tflite_tools.qat_main --model=pruned.keras --teacher=original.keras --data=data.npz \\
        --python=qat/bin/python --epochs=3 --output=pruned_int8.tflite

  Images moved and mirrored, the last 1,000 samples kept out and measured:
    python -m tflite_tools.qat_main --model=net.keras --data=data.npz --shift_px=4 --mirror --num_validation=1000 \\
        --output=net_int8.tflite
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
from absl import flags

from tflite_tools import command
from tflite_tools.aware.settings import QatSettings
from tflite_tools.errors import QatError
from tflite_tools.files import check_writable, write_bytes
from tflite_tools.representative import load_arrays

_FLAGS = command.new_flags()
_DEFAULTS = QatSettings()
_MODEL = flags.DEFINE_string("model", None, "Keras model to train (.keras).", flag_values=_FLAGS)
_TEACHER = flags.DEFINE_string("teacher", None, "Keras model to imitate; the model itself if none.", flag_values=_FLAGS)
_DATA = flags.DEFINE_string("data", None, ".npz with x_train and, if there are labels, y_train.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "The .tflite file to write.", flag_values=_FLAGS)
_PYTHON = flags.DEFINE_string("python", None, "Interpreter that trains; TFLITE_QAT_PYTHON or this.", flag_values=_FLAGS)
_HELP = {
    "epochs": "Passes over the data; 0 only chooses scales.",
    "learning_rate": "The highest; falls along half a cosine.",
    "batch_size": "Samples of a step.",
    "distillation_weight": "Share of imitation in the loss.",
    "temperature": "Softens outputs before they are compared.",
    "shift_px": "Move images by up to so many pixels.",
    "mirror": "Mirror half of the images.",
    "num_validation": "Samples at the end that are kept out and measured.",
    "seed": "Seed of order and augmentation.",
}
_DEFINE: dict[type, Any] = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
_SETTINGS: dict[str, Any] = {
    field.name: _DEFINE[type(getattr(_DEFAULTS, field.name))](
        field.name, getattr(_DEFAULTS, field.name), _HELP[field.name], flag_values=_FLAGS
    )
    for field in dataclasses.fields(QatSettings)
}


def main(progress: command.Progress) -> str:
    """Trains as the flags say; everything cheap is checked before TensorFlow is loaded.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    source, output, data = (command.required(flag) for flag in (_MODEL, _OUTPUT, _DATA))
    settings = QatSettings(**{name: flag.value for name, flag in _SETTINGS.items()})
    check_writable(output)
    inputs, labels = _arrays(data)
    with progress("Loading TensorFlow and the model"):
        from tflite_tools.aware.launch import qat
        from tflite_tools.keras_models import load_keras_model

        model = load_keras_model(source)
        teacher = load_keras_model(_TEACHER.value) if _TEACHER.value else None
    with progress("Training"):
        tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
        made = qat(model, inputs, labels, teacher=teacher, settings=settings, python=_PYTHON.value, progress=tell)
    write_bytes(output, made.data)
    return f"{output}\n{made}"


def _arrays(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = load_arrays(path)
    if isinstance(arrays, np.ndarray):
        return arrays, None
    if "x_train" not in arrays:
        raise QatError(f"'{path}' holds {sorted(arrays)}; x_train is expected, and y_train if there are labels.")
    return arrays["x_train"], arrays.get("y_train")


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_qat", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
