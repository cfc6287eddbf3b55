"""What branches without input still add: a bias, through batch norm and activation, the same at every position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp import keras_graph
from keras_qcqp.branches.fates import Fates
from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import ModelError
from keras_qcqp.graph import Node
from keras_qcqp.plan import Plan

Constants = dict[str, dict[int, np.ndarray]]
"""Call -> number of an operand that is constant -> its values, of size 1 along every axis but the channels'."""


def constants(model: keras.Model, coupling: Coupling, plan: Plan, fate: Fates) -> Constants:
    """The constant operands of the calls that are built, with the channels that stay.

    Raises:
        ModelError: a layer without input is not constant after all; its class cannot be taken out.
    """
    if not fate.constant:
        return {}
    layers, values, found = keras_graph.layers_by_path(model), dict[int, np.ndarray](), Constants()
    for node in coupling.graph.nodes:
        if node.name in fate.constant:
            axis = coupling.specs[node.name].outputs[0].axis
            given = node.inputs[0]
            values[node.outputs[0].number] = _evaluated(
                layers[node.layer], node, values.get(given.number, np.zeros((1,), np.float32)), axis
            )
        elif node.name not in fate.gone:
            for number, tensor in enumerate(node.inputs):
                if tensor.number in values:
                    found.setdefault(node.name, {})[number] = _kept(coupling, plan, fate, node, number, values)
    return found


def _evaluated(layer: Any, node: Node, value: np.ndarray, axis: int) -> np.ndarray:
    """A call on a tensor that holds `value` (one number, or one for each channel) at every position."""
    given = node.inputs[0]
    shape = tuple(2 if size is None else size for size in given.shape[1:])
    if value.size > 1:
        spread = [1] * (len(shape) + 1)
        spread[axis] = -1
        value = value.reshape(spread)
    x = keras.ops.convert_to_tensor(np.broadcast_to(value, (1, *shape)).astype(np.float32))
    options = {"training": False} if isinstance(layer, keras.layers.Layer) else {}
    y = keras.ops.convert_to_numpy(keras.ops.cast(layer(keras.ops.cast(x, given.dtype), **options), "float32"))
    flat = np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])
    # Vectorised and scalar code of one kernel may round differently.
    if np.any(flat.max(axis=0) - flat.min(axis=0) > 1e-6 * (1 + np.abs(flat).max(axis=0))):
        raise ModelError(
            f"Without input '{node.layer}' ({node.kind}) is not the same at every position, so its branch cannot be "
            "taken out. Give it min_keep=1."
        )
    return flat[0]


def _kept(
    coupling: Coupling, plan: Plan, fate: Fates, node: Node, number: int, values: Mapping[int, np.ndarray]
) -> np.ndarray:
    tensor, x = node.inputs[number], coupling.inputs[node.name][number]
    full = values[tensor.number]
    makers = {n.outputs[0].number: n for n in coupling.graph.nodes if n.outputs}
    source = plan[fate.source[makers[tensor.number].name]]
    order = source.out_index[0]
    if node.name in {join.node for join in coupling.joins}:
        kept, order = np.zeros_like(full), plan[node.layer].out_index[0]
        own = list(plan[node.layer].in_index[number])
        kept[own] = full[own]
        full = kept
    shape = [1] * len(tensor.shape)
    shape[x.axis] = -1
    return full[list(order)].reshape(shape)
