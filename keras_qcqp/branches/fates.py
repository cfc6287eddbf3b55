"""What becomes of each call when some tensors have lost all their channels.

* A call all of whose channels are dropped is *gone*, and so is one that nothing needs any more.
* A convolution or Dense whose input is gone gives its bias everywhere: it is *constant*, and so is what follows it one
  value at a time, down to the addition or product that takes it in.
* Concatenations and additions go on with the operands that are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import keras
import numpy as np

from keras_qcqp.channels import Axis, Spec
from keras_qcqp.coupling import Coupling
from keras_qcqp.graph import Node

_L = keras.layers
_ELEMENTWISE = (_L.Activation, _L.ReLU, _L.LeakyReLU, _L.ELU, _L.BatchNormalization, _L.Dropout, _L.Identity)
_OPERATIONS = frozenset("Gelu HardSigmoid HardSilu Identity LeakyRelu Relu Relu6 Sigmoid Silu Tanh".split())
MERGES: Mapping[str, str] = {"Add": "add", "Multiply": "multiply"}
"""Class of a call that can take in a constant operand -> the `keras.ops` function that does so."""


@dataclasses.dataclass(frozen=True)
class Fates:
    """Names of calls: `gone` are not built, `constant` neither but worth something, `source` is where those begin."""

    gone: frozenset[str]
    constant: frozenset[str]
    source: Mapping[str, str]

    @property
    def absent(self) -> frozenset[str]:
        return self.gone | self.constant


NOTHING = Fates(frozenset(), frozenset(), {})
"""Everything is built."""


def fates(coupling: Coupling, alive: np.ndarray) -> Fates:
    """What becomes of each call when the channels in bool[channels] `alive` are kept."""
    gone, source, lost, fixed = set[str](), dict[str, str](), set[int](), dict[int, str]()
    for node in coupling.graph.nodes:
        spec = coupling.specs[node.name]
        empty = [len(x) > 0 and not alive[x.ids].any() for x in spec.outputs]
        if empty and all(empty):
            gone.add(node.name)
            lost.update(t.number for t in node.outputs)
        elif len(node.inputs) == 1 and node.inputs[0].number in lost and mixes(spec):
            source[node.name] = fixed[node.outputs[0].number] = node.name
        elif len(node.inputs) == 1 and node.inputs[0].number in fixed and hands_on(node, spec, coupling):
            source[node.name] = fixed[node.outputs[0].number] = fixed[node.inputs[0].number]
    gone |= _unneeded(coupling, gone | source.keys())
    return Fates(frozenset(gone), frozenset(source.keys() - gone), source)


def _unneeded(coupling: Coupling, absent: Collection[str]) -> set[str]:
    """Calls that are there, but none of whose outputs anything needs; a nested model may ignore its own."""
    needed = {t.number for t in coupling.graph.outputs}
    found = set[str]()
    for node in reversed(coupling.graph.nodes):
        if node.name in absent:
            continue
        idle = needed.isdisjoint(t.number for t in node.outputs)
        if idle and "/" not in node.layer and not issubclass(node.cls, _L.InputLayer):
            found.add(node.name)
        else:
            needed.update(t.number for t in node.inputs)
    return found


def mixes(spec: Spec) -> bool:
    """Whether a call with one input reads it by a kernel alone, and makes channels of its own: zeros give its bias."""
    if spec.zeroed or spec.hidden or spec.arguments or len(spec.outputs) != 1:
        return False
    return any(_reads(axes, "in") and _reads(axes, "out") for axes in spec.weights.values())


def _reads(axes: tuple[Axis | None, ...], side: str) -> bool:
    return any(a is not None and a.side == side for a in axes)


def hands_on(node: Node, spec: Spec, coupling: Coupling) -> bool:
    """Whether a call makes a constant of a constant, channel by channel."""
    (given, *more), outs = coupling.inputs[node.name], spec.outputs
    if more or len(outs) != 1 or not np.array_equal(given.ids, outs[0].ids) or given.axis != outs[0].axis:
        return False
    operation = node.cls.__module__.startswith("keras.src.ops.") and node.kind in _OPERATIONS
    return node.cls in _ELEMENTWISE or operation
