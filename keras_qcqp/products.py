"""Products of widths: at most two free ones may meet, since the program is quadratic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from keras_qcqp.channels import Axis, Channels, Spec, ids_along
from keras_qcqp.errors import ModelError
from keras_qcqp.graph import Graph, Node
from keras_qcqp.partition import FrozenLayer


def hold_back(
    graph: Graph, specs: Mapping[str, Spec], inputs: Mapping[str, tuple[Channels, ...]], frozen: np.ndarray
) -> list[FrozenLayer]:
    """Freezes, in bool[channels] `frozen`, the last hidden width of each layer in which three free widths meet.

    Freezing one may settle other layers too, so they are looked at one after the other.

    Raises:
        ModelError: they meet without a hidden width that could give way.
    """
    told = []
    for node in graph.nodes:
        spec = specs[node.name]
        waiting = list(spec.hidden)
        while beyond := _beyond(spec, inputs[node.name], frozen):
            free = [h for h in waiting if not frozen[h.ids].all()]
            if not free:
                raise ModelError(
                    f"The rule for {node.kind} lets {len(beyond)} free widths of '{node.name}' meet in one product; at "
                    "most two can be free. Freeze one with call.freeze, or make one a hidden width, which gives way."
                )
            told.append(_held(node, free[-1].name, free[-1].ids, frozen))
            waiting.remove(free[-1])
    return told


def _beyond(spec: Spec, inputs: tuple[Channels, ...], frozen: np.ndarray) -> list[Axis]:
    """The free axes of a product with more than two of them."""
    for axes in products(spec):
        free = [axis for axis in axes if not frozen[ids_along(spec, inputs, axis)].all()]
        if len(free) > 2:
            return free
    return []


def products(spec: Spec) -> Iterable[tuple[Axis, ...]]:
    """The axes that are multiplied with one another: of each weight, and of each MAC count."""
    yield from (tuple(a for a in axes if a is not None) for axes in spec.weights.values())
    yield from (axes for _, axes in spec.macs)


def _held(node: Node, name: str, ids: np.ndarray, frozen: np.ndarray) -> FrozenLayer:
    number = len(np.unique(ids[~frozen[ids]]))
    frozen[ids] = True
    reason = (
        f"its {name} would be a third free width in one product; they are free once the layer's inputs or outputs "
        "are frozen"
    )
    return FrozenLayer(node.name, node.kind, reason, number)
