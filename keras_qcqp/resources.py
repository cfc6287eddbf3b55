"""What a network costs, as exact integer functions of the counts of kept channels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import numpy as np

from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.deployed import file_terms, peak_steps, require_recipe
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import read
from keras_qcqp.problem import Resource, Step
from keras_qcqp.terms import Term as Term
from keras_qcqp.terms import item_bytes as item_bytes
from keras_qcqp.terms import unknown_size

Counter = Callable[[Coupling, str], Iterable[Term]]
Moments = tuple[tuple[str, tuple[Term, ...]], ...]


def _macs(coupling: Coupling, recipe: str) -> Iterator[Term]:
    for node in coupling.graph.nodes:
        for coefficient, axes in coupling.specs[node.name].macs:
            if coefficient is None:
                raise BudgetError(unknown_size(node, "macs"))
            yield Term(node, coefficient, tuple(coupling.ids(node, axis) for axis in axes))


def _weights(value_of: Callable[[str], int]) -> Counter:
    def terms(coupling: Coupling, recipe: str) -> Iterator[Term]:
        for node in coupling.first_calls():
            for name, axes in coupling.specs[node.name].weights.items():
                weight = node.weights[name]
                fixed = [size for size, axis in zip(weight.shape, axes, strict=True) if axis is None]
                followed = tuple(coupling.ids(node, axis) for axis in axes if axis is not None)
                yield Term(node, math.prod(fixed) * value_of(weight.dtype), followed)

    return terms


def _activations(coupling: Coupling, recipe: str) -> Iterator[Term]:
    for node in coupling.graph.nodes:
        for tensor, channels in zip(node.outputs, coupling.specs[node.name].outputs, strict=True):
            followed = channels.axis if len(channels) else None
            sizes = [s for axis, s in enumerate(tensor.shape) if axis not in (0, followed)]
            known = [s for s in sizes if s is not None]
            if len(known) != len(sizes):
                raise BudgetError(unknown_size(node, "activation_bytes"))
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
                raise BudgetError(unknown_size(node, "activation_bytes"))
            each = math.prod(s for s in sizes if s is not None) * item_bytes(tensor.dtype)
            yield from (Term(node, each, factors) for factors in ((x.ids,), (), (total,)))


def _none(coupling: Coupling, recipe: str) -> Iterable[Term]:
    return ()


COUNTERS: Mapping[str, tuple[str, Counter]] = {
    "macs": ("MAC", _macs),
    "params": ("params", _weights(lambda dtype: 1)),
    "weight_bytes": ("B", _weights(item_bytes)),
    "activation_bytes": ("B", _activations),
    "peak_bytes": ("B", _none),
    "tflite_bytes": ("B", file_terms),
}
"""Resource name -> unit, and the terms that add up to it.

macs: multiply-accumulates of convolutions, Dense and recurrent layers for one sample, every kernel position and time
step counted, borders included. params: all variables, as `model.count_params()`. weight_bytes: their bytes in the
model's own dtypes. activation_bytes: the output of every layer call, network inputs included, for one sample; with
union residuals an upper bound, since what aligns the operands of an addition depends on the order of their channels.
peak_bytes: the most bytes of tensors that live at once while the deployed file runs, which is no sum (see `MOMENTS`).
tflite_bytes: the size of that file, an upper bound.
"""

MOMENTS: Mapping[str, Callable[[Coupling, str], Moments]] = {"peak_bytes": peak_steps}
"""Resource name -> for each moment its name and terms; the greatest of their sums is added to the resource."""


def resource(coupling: Coupling, name: str, recipe: str = "float32") -> Resource:
    """The function of the counts of kept channels that is one resource.

    Args:
        recipe: number format of the deployed file, "float32" or "int8"; only `peak_bytes` and `tflite_bytes` ask.

    Raises:
        BudgetError: a spatial size is unknown, so the resource cannot be counted, or the recipe is unknown.
    """
    unit, counter = COUNTERS[name]
    counted = polynomial(coupling, name, unit, counter(coupling, recipe))
    moments = MOMENTS[name](coupling, recipe) if name in MOMENTS else ()
    return dataclasses.replace(counted, steps=_steps(coupling, moments))


def _steps(coupling: Coupling, moments: Moments) -> tuple[Step, ...]:
    """Without those that another one reaches at least, whatever is kept."""
    sums = (polynomial(coupling, name, "", terms) for name, terms in moments)
    steps = [Step(s.name, s.constant, s.linear) for s in sums]
    for step in list(steps):
        if any(_exceeds(coupling, other, step) for other in steps if other is not step):
            steps = [other for other in steps if other is not step]
    return tuple(steps)


def _exceeds(coupling: Coupling, other: Step, step: Step) -> bool:
    """Whether `other` is at least `step`, however many channels of the masks that are not frozen are kept."""
    room = other.constant - step.constant
    for number, mask in enumerate(coupling.masks):
        more = mask.size * (step.linear.get(number, 0) - other.linear.get(number, 0))
        room -= more if mask.frozen and not mask.dead else max(more, 0)
    return room >= 0


def polynomial(coupling: Coupling, name: str, unit: str, terms: Iterable[Term]) -> Resource:
    """The sum of terms over channels as one over the counts of masks."""
    constant, linear, quadratic = 0, dict[int, int](), dict[tuple[int, int], int]()
    for term in terms:
        coefficient, factors = _at_most_two(coupling, term)
        counts = [multiplicities(coupling, ids) for ids in factors]
        if not counts:
            constant += coefficient
        elif len(counts) == 1:
            for a, times in counts[0].items():
                linear[a] = linear.get(a, 0) + coefficient * times
        else:
            for a, times_a in counts[0].items():
                for b, times_b in counts[1].items():
                    key = (min(a, b), max(a, b))
                    quadratic[key] = quadratic.get(key, 0) + coefficient * times_a * times_b
    return Resource(name, unit, constant, linear, quadratic)


def _at_most_two(coupling: Coupling, term: Term) -> tuple[int, tuple[np.ndarray, ...]]:
    """Of more than two factors those that are frozen are numbers (see `products.hold_back`)."""
    if len(term.factors) <= 2:
        return term.coefficient, term.factors
    fixed = [bool(coupling.is_frozen[ids].all()) for ids in term.factors]
    numbers = (len(ids) for ids, known in zip(term.factors, fixed, strict=True) if known)
    return term.coefficient * math.prod(numbers), tuple(
        ids for ids, known in zip(term.factors, fixed, strict=True) if not known
    )


def multiplicities(coupling: Coupling, ids: np.ndarray) -> dict[int, int]:
    """Mask -> how often each of its channels appears among `ids` (the same for all, by construction)."""
    masks, total = np.unique(coupling.mask_of[ids], return_counts=True)
    found = {}
    for mask, number in zip(masks.tolist(), total.tolist(), strict=True):
        size = coupling.masks[mask].size
        assert number % size == 0, "channels of one mask appear equally often on every axis"
        found[mask] = number // size
    return found


def by_layer(coupling: Coupling, name: str, alive: np.ndarray, recipe: str = "float32") -> dict[str, int]:
    """Layer path -> its share of a resource when the channels in bool[channels] `alive` are kept.

    Of a peak, the share of each tensor that lives when it is reached.
    """
    terms = COUNTERS[name][1](coupling, recipe)
    if name in MOMENTS:
        moments = (terms for _, terms in MOMENTS[name](coupling, recipe))
        terms = max(moments, key=lambda terms: sum(term.value(alive) for term in terms), default=())
    shares: dict[str, int] = {}
    for term in terms:
        shares[term.node.layer] = shares.get(term.node.layer, 0) + term.value(alive)
    return shares


def count_all(coupling: Coupling, recipe: str = "float32") -> tuple[Resource, ...]:
    """Every resource that can be counted for this model, deployed in the number format `recipe`."""
    found = []
    for name in COUNTERS:
        try:
            found.append(resource(coupling, name, recipe))
        except BudgetError:
            continue  # asked for by a budget, `resource` says why; merely for the report, it is left out
    return tuple(found)


def measure(model: keras.Model, recipe: str = "float32") -> dict[str, int]:
    """What a model costs as it stands: resource name -> value, for each resource in `COUNTERS`.

    Resources that need sizes the model does not have (a free image size) are left out.

    Args:
        recipe: number format of the deployed file, "float32" or "int8".

    Raises:
        ModelError: the model cannot be read.
        BudgetError: the recipe is unknown.
    """
    require_recipe(recipe)
    coupling = couple(read(model))
    full = [m.size for m in coupling.masks]
    return {r.name: r.usage(full) for r in count_all(coupling, recipe)}
