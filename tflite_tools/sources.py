"""What may stand for a model: results of pruning, and an original with its plan. The only door to `keras_qcqp`."""

from __future__ import annotations

import os
from typing import Any

from tflite_tools.errors import ConversionError, first_line


def resolved(model: Any, plan: Any = None) -> Any:
    """The model itself, that of a result, or the original rebuilt by `plan`.

    Raises:
        ConversionError: the plan does not fit the model.
    """
    if plan is None:
        # PruneResult, FinetuneResult and the like; a Keras model has no attribute `model`.
        return getattr(model, "model", model)
    import keras_qcqp

    try:
        return keras_qcqp.rebuild(model, plan)
    except keras_qcqp.QcqpError as error:
        raise ConversionError(f"The plan does not fit the model: {first_line(error)}") from error


def load_plan(path: str | os.PathLike[str]) -> Any:
    """Reads a plan that `keras_qcqp` wrote.

    Raises:
        ConversionError: missing, or no plan.
    """
    import keras_qcqp

    try:
        return keras_qcqp.Plan.load(path)
    except (keras_qcqp.QcqpError, OSError) as error:
        raise ConversionError(f"Plan '{path}' cannot be read: {first_line(error)}") from error
