"""What a network costs, as exact integer polynomials in the counts of kept channels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import numpy as np

from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import Node, read
from keras_qcqp.problem import Resource

_BYTES = {"bfloat16": 2, "bool": 1, "string": 0}


def item_bytes(dtype: str) -> int:
    """Bytes of one value of a Keras dtype."""
    return _BYTES[dtype] if dtype in _BYTES else np.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Term:
    """A product: coefficient x the number of live channels along each of `factors` (arrays of channel ids)."""

    node: Node
    coefficient: int
    factors: tuple[np.ndarray, ...]

    def value(self, alive: np.ndarray) -> int:
        """The product when the channels in bool[channels] `alive` are kept."""
        return self.coefficient * math.prod(int(np.count_nonzero(alive[ids])) for ids in self.factors)


Counter = Callable[[Coupling], Iterator[Term]]


def _macs(coupling: Coupling) -> Iterator[Term]:
    for node in coupling.graph.nodes:
        for coefficient, axes in coupling.specs[node.name].macs:
            if coefficient is None:
                raise BudgetError(_unknown_size(node, "macs"))
            yield Term(node, coefficient, tuple(coupling.ids(node, axis) for axis in axes))


def _weights(value_of: Callable[[str], int]) -> Counter:
    def terms(coupling: Coupling) -> Iterator[Term]:
        for node in coupling.first_calls():
            for name, axes in coupling.specs[node.name].weights.items():
                weight = node.weights[name]
                fixed = [size for size, axis in zip(weight.shape, axes, strict=True) if axis is None]
                followed = tuple(coupling.ids(node, axis) for axis in axes if axis is not None)
                yield Term(node, math.prod(fixed) * value_of(weight.dtype), followed)

    return terms


def _activations(coupling: Coupling) -> Iterator[Term]:
    for node in coupling.graph.nodes:
        for tensor, channels in zip(node.outputs, coupling.specs[node.name].outputs, strict=True):
            followed = channels.axis if len(channels) else None
            sizes = [s for axis, s in enumerate(tensor.shape) if axis not in (0, followed)]
            known = [s for s in sizes if s is not None]
            if len(known) != len(sizes):
                raise BudgetError(_unknown_size(node, "activation_bytes"))
            factors = (channels.ids,) if len(channels) else ()
            yield Term(node, math.prod(known) * item_bytes(tensor.dtype), factors)
    yield from _alignments(coupling)


def _alignments(coupling: Coupling) -> Iterator[Term]:
    """At most what bringing an operand to the channels of its sum writes: all of it, a channel of zeros, and the sum.

    How much it really is depends on the order of the channels, which is chosen after the selection.
    """
    nodes = {node.name: node for node in coupling.graph.nodes}
    for join in coupling.joins:
        node, total = nodes[join.node], coupling.specs[join.node].outputs[0].ids
        for tensor, x in zip(node.inputs, coupling.inputs[join.node], strict=True):
            sizes = [size for axis, size in enumerate(tensor.shape) if axis not in (0, x.axis)]
            if None in sizes:
                raise BudgetError(_unknown_size(node, "activation_bytes"))
            each = math.prod(s for s in sizes if s is not None) * item_bytes(tensor.dtype)
            yield from (Term(node, each, factors) for factors in ((x.ids,), (), (total,)))


def _unknown_size(node: Node, resource: str) -> str:
    return (
        f"'{resource}' cannot be counted: the output of '{node.name}' has unknown size {node.outputs[0].shape}. "
        "Rebuild the model on a keras.Input with a full shape, or leave this budget out."
    )


COUNTERS: Mapping[str, tuple[str, Counter]] = {
    "macs": ("MAC", _macs),
    "params": ("params", _weights(lambda dtype: 1)),
    "weight_bytes": ("B", _weights(item_bytes)),
    "activation_bytes": ("B", _activations),
}
"""Resource name -> unit, and the terms that add up to it.

macs: multiply-accumulates of convolutions and Dense layers for one sample, every kernel position counted, borders
included. params: all variables, as `model.count_params()`. weight_bytes: their bytes in the model's own dtypes.
activation_bytes: the output of every layer call, network inputs included, for one sample; with union residuals an upper
bound, since what aligns the operands of an addition depends on the order of their channels.
"""


def resource(coupling: Coupling, name: str) -> Resource:
    """The polynomial of one resource.

    Raises:
        BudgetError: a spatial size is unknown, so the resource cannot be counted.
    """
    unit, counter = COUNTERS[name]
    return polynomial(coupling, name, unit, counter(coupling))


def polynomial(coupling: Coupling, name: str, unit: str, terms: Iterable[Term]) -> Resource:
    """The sum of terms over channels as one over the counts of masks."""
    constant, linear, quadratic = 0, dict[int, int](), dict[tuple[int, int], int]()
    for term in terms:
        counts = [multiplicities(coupling, ids) for ids in term.factors]
        if not counts:
            constant += term.coefficient
        elif len(counts) == 1:
            for a, times in counts[0].items():
                linear[a] = linear.get(a, 0) + term.coefficient * times
        else:
            for a, times_a in counts[0].items():
                for b, times_b in counts[1].items():
                    key = (min(a, b), max(a, b))
                    quadratic[key] = quadratic.get(key, 0) + term.coefficient * times_a * times_b
    return Resource(name, unit, constant, linear, quadratic)


def multiplicities(coupling: Coupling, ids: np.ndarray) -> dict[int, int]:
    """Mask -> how often each of its channels appears among `ids` (the same for all, by construction)."""
    masks, total = np.unique(coupling.mask_of[ids], return_counts=True)
    found = {}
    for mask, number in zip(masks.tolist(), total.tolist(), strict=True):
        size = coupling.masks[mask].size
        assert number % size == 0, "channels of one mask appear equally often on every axis"
        found[mask] = number // size
    return found


def by_layer(coupling: Coupling, name: str, alive: np.ndarray) -> dict[str, int]:
    """Layer path -> its share of a resource when the channels in bool[channels] `alive` are kept."""
    shares: dict[str, int] = {}
    for term in COUNTERS[name][1](coupling):
        shares[term.node.layer] = shares.get(term.node.layer, 0) + term.value(alive)
    return shares


def count_all(coupling: Coupling) -> tuple[Resource, ...]:
    """Every resource that can be counted for this model."""
    found = []
    for name in COUNTERS:
        try:
            found.append(resource(coupling, name))
        except BudgetError:
            continue  # asked for by a budget, `resource` says why; merely for the report, it is left out
    return tuple(found)


def measure(model: keras.Model) -> dict[str, int]:
    """What a model costs as it stands: resource name -> value (macs, params, weight_bytes, activation_bytes).

    Resources that need sizes the model does not have (a free image size) are left out.

    Raises:
        ModelError: the model cannot be read.
    """
    coupling = couple(read(model))
    full = [m.size for m in coupling.masks]
    return {r.name: r.usage(full) for r in count_all(coupling)}
