"""Puts the operations of a `Move` between an operand and its addition, with operations built into Keras only."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Adapter
from keras_qcqp.keras_graph import rename
from keras_qcqp.layer_plan import LayerPlan
from keras_qcqp.residual.moves import move, source_of


def aligned(plan: LayerPlan, operand: int, axis: int) -> Adapter:
    """Brings the kept channels of an operand, along `axis`, to those of the sum."""
    kept = plan.in_index[operand]
    step = move(source_of(kept, plan.out_index[0]), len(kept))

    def adapt(x: Any, name: str) -> Any:
        if step.slices:
            x = rename(x[(slice(None),) * axis + (slice(step.start, step.stop),)], f"{name}_slice")
        if step.pads:
            width = [(0, 0)] * len(x.shape)
            width[axis] = (step.before, step.after)
            x = rename(keras.ops.pad(x, tuple(width)), f"{name}_pad")
        if step.index:
            x = rename(keras.ops.take(x, list(step.index), axis=axis), f"{name}_gather")
        return x

    return adapt


def zeroed(plan: LayerPlan, operand: int, axis: int) -> Adapter:
    """Multiplies the dropped channels of an operand, along `axis`, by zero."""
    kept = np.zeros(plan.in_size[operand], np.float32)
    kept[list(plan.in_index[operand])] = 1.0

    def adapt(x: Any, name: str) -> Any:
        shape = [1] * len(x.shape)
        shape[axis] = -1
        product = rename(keras.ops.multiply(x, kept.reshape(shape)), f"{name}_mask")
        return product if product.dtype == x.dtype else rename(keras.ops.cast(product, x.dtype), f"{name}_cast")

    return adapt
