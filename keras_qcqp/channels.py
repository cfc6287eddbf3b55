"""Channel ids: the small vocabulary in which every layer says how it treats channels.

Each channel of each tensor has an integer id. A rule receives a `Call`, looks at the ids that come in, and returns a
`Spec`: the ids that go out, which axis of each weight follows which tensor, which configuration entries are channel
counts, and how many multiply-accumulates the call costs. Everything else (slicing, counting, importance) is derived.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from keras_qcqp.graph import Node

NETWORK_INPUT = "network input"
"""The one reason to freeze that goes without saying."""


@dataclasses.dataclass(frozen=True)
class Channels:
    """The ids int[channels] along one axis (batch axis = 0) of a tensor; empty when the size is unknown."""

    ids: np.ndarray
    axis: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of a weight (or a number in a configuration) that follows the channels of a tensor of the call.

    Applied in this order: the positions `start:stop` of the tensor's channels, of these the first of `groups` equal
    parts, each repeated `repeat` times in place.
    """

    side: Literal["in", "out"]
    port: int = 0
    repeat: int = 1
    groups: int = 1
    start: int = 0
    stop: int | None = None

    def follow(self, ids: np.ndarray) -> np.ndarray:
        """The ids along this axis, given those of the tensor."""
        part = ids[self.start : self.stop]
        return np.repeat(part[: len(part) // self.groups], self.repeat)

    def select(self, index: np.ndarray, size: int) -> np.ndarray:
        """The ordered positions to take along this axis, given those to take of the tensor's `size` channels."""
        stop = size if self.stop is None else self.stop
        end = self.start + (stop - self.start) // self.groups
        inside = index[(index >= self.start) & (index < end)] - self.start
        return (inside[:, None] * self.repeat + np.arange(self.repeat)).ravel()


def In(port: int = 0, **how: Any) -> Axis:  # noqa: N802 (reads as a name in the rules)
    """An axis that follows the channels of the call's `port`-th input."""
    return Axis("in", port, **how)


def Out(port: int = 0, **how: Any) -> Axis:  # noqa: N802
    """An axis that follows the channels of the call's `port`-th output."""
    return Axis("out", port, **how)


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A call argument that lists, for each channel of the output, the channel of the input it comes from."""

    index: tuple[int, ...]

    def renumber(self, in_index: Sequence[int], out_index: Sequence[int]) -> list[int]:
        """The same list after only these channels of the input and of the output have stayed, in this order."""
        place = {channel: number for number, channel in enumerate(in_index)}
        return [place[self.index[channel]] for channel in out_index]


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a rule says of one call.

    Attributes:
        outputs: channels of each output tensor.
        weights: weight name -> for each of its axes an `Axis`, or None where it follows no channel. Names that the
            layer does not have (a bias that is switched off) are ignored; a weight that is missing here freezes it.
        config: new values of configuration entries, any nesting, with an `Axis` where its width belongs.
        macs: products `(coefficient, axes)`; the coefficient is None where a spatial size is unknown.
        arguments: new values of call arguments by parameter name, for operations whose call holds what a layer has in
            its configuration (the bounds of a slice); an `Axis` where a width belongs, or a `Lookup`.
    """

    outputs: tuple[Channels, ...]
    weights: Mapping[str, tuple[Axis | None, ...]] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    macs: tuple[tuple[int | None, tuple[Axis, ...]], ...] = ()
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def edits(self) -> bool:
        """Whether pruning can change the layer object itself."""
        return bool(self.config or self.arguments) or any(a is not None for axes in self.weights.values() for a in axes)


class Frozen(Exception):  # noqa: N818 (a verdict, not a failure)
    """Raised by a rule: this call cannot be followed, freeze all channels it touches, for this reason."""


class Call(Protocol):
    """What a rule sees: the node, the channels of its inputs, and what it may do to ids."""

    node: Node
    inputs: tuple[Channels, ...]

    def fresh(self, port: int = 0, axis: int | None = None) -> Channels:
        """New ids for the `port`-th output along `axis` (default: the last)."""

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """These ids live or die together, element by element."""

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        """These ids are always kept."""

    def add(self, operands: Sequence[Channels]) -> Channels:
        """The channels of a sum of tensors of the same width: tied to the operands', or a set of their own."""

    def zeros(self, ids: np.ndarray) -> None:
        """These ids of an output, brought into being here, are zero whatever is fed to the network."""


class Rule(Protocol):
    """A pure description of one layer class: `Call` in, `Spec` out; raises `Frozen` when it must give up."""

    def __call__(self, call: Call) -> Spec: ...


def normal_axis(axis: int, rank: int) -> int:
    """A non-negative axis number."""
    return axis + rank if axis < 0 else axis


def substitute(value: Any, width: Any) -> Any:
    """Replaces every `Axis` in a nested configuration value by `width(axis)`."""
    if isinstance(value, Axis):
        return width(value)
    if isinstance(value, (tuple, list)):
        return type(value)(substitute(v, width) for v in value)
    if isinstance(value, slice):
        return slice(*(substitute(v, width) for v in (value.start, value.stop, value.step)))
    return value
