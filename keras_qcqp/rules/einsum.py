"""EinsumDense: its equation says what happens to every axis."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_qcqp.channels import Axis, Call, Channels, Frozen, In, Out, Rule, Spec
from keras_qcqp.graph import Node
from keras_qcqp.rules.convolution import activate


@dataclasses.dataclass(frozen=True)
class Equation:
    """An equation with a letter for each axis: of the input, of the kernel, of the output.

    Attributes:
        configured: the letters of the output whose sizes the configuration lists.
    """

    given: str
    kernel: str
    made: str
    configured: str


def equation(text: str, rank: int) -> Equation:
    """Reads an equation for an input of this rank; axes behind an ellipsis get digits for letters.

    Raises:
        Frozen: not what Keras' documentation allows, or the batch axis does not stay the first.
    """
    parts = re.fullmatch(r"(0?)([a-zA-Z]+)(0?),([a-zA-Z]+)->(0?)([a-zA-Z]+)(0?)", text.replace("...", "0"))
    if parts is None:
        raise Frozen(f"equation '{text}' is not of the form X,Y->Z, ...X,Y->...Z or X...,Y->Z...")
    left, given, right, kernel, left_too, made, right_too = parts.groups()
    elided = "".join(map(str, range(rank - len(given))))
    before, after = elided if left else "", elided if right else ""
    read = Equation(before + given + after, kernel, before + made + after, made if left else made[1:])
    same = (left, right) == (left_too, right_too) and len(elided) < 10 and len(read.given) == rank
    unique = all(len(set(letters)) == len(letters) for letters in (read.given, kernel, read.made))
    if not same or not unique or read.given[0] != read.made[0] or read.made[0] in kernel:
        raise Frozen(f"equation '{text}' does not leave the batch axis first, or names an axis twice")
    return read


def product(sizes: Iterable[int | None]) -> int | None:
    """None when a size is unknown."""
    known = tuple(sizes)
    return None if None in known else math.prod(size for size in known if size is not None)


def einsum_dense(call: Call) -> Spec:
    """Channels that the output still has pass through; else they are read, and the kernel's last new axis is fresh."""
    node, (x,) = call.node, call.inputs
    read = equation(node.config["equation"], len(node.inputs[0].shape))
    letter = read.given[x.axis]
    out, follows = _output(call, read, letter)
    if len(out) and node.outputs[0].shape[out.axis] is None:
        raise Frozen(f"output_shape {node.config['output_shape']} leaves the number of channels open; write it down")
    weights = {"kernel": tuple(map(follows.get, read.kernel)), "bias": _bias(node, read, follows)}
    if "bias" in node.weights and any(_astray(node, out, weights["bias"], kept) for kept in range(1, len(out) + 1)):
        reason = "with some widths Keras adds the bias along another axis of the same size; make the channels' axis the"
        call.freeze(out.ids, f"{reason} last one, with a bias of its own, or leave the bias out")
    reads = {} if letter in read.made or letter not in read.kernel else {"kernel": (read.kernel.index(letter),)}
    zeroed = () if letter in read.made + read.kernel else (0,)
    config = {"output_shape": _configured(node, read, follows)}
    macs = (_macs(node, read, follows),)
    return Spec((activate(call, out),), weights, config, macs, reads=reads, zeroed=zeroed)


def _output(call: Call, read: Equation, letter: str) -> tuple[Channels, Mapping[str, Axis]]:
    """The channels of the output, and which letters follow channels."""
    if letter in read.made:
        return Channels(call.inputs[0].ids, read.made.index(letter)), {letter: Out()}
    new = [c for c in read.made if c in read.kernel and c not in read.given]
    if new:
        return call.fresh(axis=read.made.index(new[-1])), {letter: In(), new[-1]: Out()}
    out = call.fresh()
    call.freeze(out.ids, f"equation '{call.node.config['equation']}' makes no new axis, so the output has no channels")
    return out, {letter: In()}


def _bias(node: Node, read: Equation, follows: Mapping[str, Axis]) -> tuple[Axis | None, ...]:
    """A bias spans the output from its first axis on, with size 1 along axes it does not have."""
    own = node.config["bias_axes"] or ""
    first = min((read.made.index(c) for c in own), default=0)
    return tuple(follows.get(c) if c in own else None for c in read.made[first:])


def _astray(node: Node, out: Channels, bias: tuple[Axis | None, ...], kept: int) -> bool:
    """Whether Keras, for TensorFlow, adds the bias along another axis than its own, once so many channels are kept.

    A bias that is a vector but for axes of size 1 is taken for one along the last axis, or else the first, if it fits.
    """
    shape = [kept if axis == out.axis else size for axis, size in enumerate(node.outputs[0].shape)]
    sizes = [size if axis is None else kept for axis, size in zip(bias, node.weights["bias"].shape, strict=True)]
    wide = [number for number, size in enumerate(sizes) if size > 1]
    if len(wide) != 1:
        return False
    place = len(shape) - len(sizes) + wide[0]
    taken = len(shape) - 1 if shape[-1] == sizes[wide[0]] else 1 if shape[1] == sizes[wide[0]] else place
    return taken != place


def _configured(node: Node, read: Equation, follows: Mapping[str, Axis]) -> tuple[Any, ...]:
    old = node.config["output_shape"]
    old = (old,) if isinstance(old, int) else tuple(old)
    new = (follows.get(c, size) for c, size in zip(read.configured, old, strict=False))
    return (*new, *old[len(read.configured) :])


def _macs(node: Node, read: Equation, follows: Mapping[str, Axis]) -> tuple[int | None, tuple[Axis, ...]]:
    sizes = dict(zip(read.given, node.inputs[0].shape, strict=True))
    if "kernel" in node.weights:
        sizes |= zip(read.kernel, node.weights["kernel"].shape, strict=True)
    fixed = product(size for c, size in sizes.items() if c not in follows and c != read.given[0])
    return fixed, tuple(axis for c, axis in follows.items() if c in sizes)


RULES: dict[type, Rule] = {keras.layers.EinsumDense: einsum_dense}
