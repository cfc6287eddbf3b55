"""Channel ids: the small vocabulary in which every layer says how it treats channels.

Each channel of each tensor has an integer id. A rule receives a `Call`, looks at the ids that come in, and returns a
`Spec`: the ids that go out, which axis of each weight follows which tensor, which configuration entries are channel
counts, and how many multiply-accumulates the call costs. Everything else (slicing, counting, importance) is derived.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from keras_qcqp.graph import Node
from keras_qcqp.layer_plan import LayerPlan

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
    parts, each repeated `repeat` times in place, all of that `tile` times over (the gates of a recurrent layer).
    `side` "hidden" follows `Spec.hidden[port]`, a width inside the layer.
    """

    side: Literal["in", "out", "hidden"]
    port: int = 0
    repeat: int = 1
    groups: int = 1
    start: int = 0
    stop: int | None = None
    tile: int = 1

    def follow(self, ids: np.ndarray) -> np.ndarray:
        """The ids along this axis, given those of the tensor."""
        part = ids[self.start : self.stop]
        return np.tile(np.repeat(part[: len(part) // self.groups], self.repeat), self.tile)

    def select(self, index: np.ndarray, size: int) -> np.ndarray:
        """The ordered positions to take along this axis, given those to take of the tensor's `size` channels."""
        stop = size if self.stop is None else self.stop
        part = (stop - self.start) // self.groups
        inside = index[(index >= self.start) & (index < self.start + part)] - self.start
        repeated = (inside[:, None] * self.repeat + np.arange(self.repeat)).ravel()
        return (np.arange(self.tile)[:, None] * (part * self.repeat) + repeated).ravel()


def In(port: int = 0, **how: Any) -> Axis:  # noqa: N802 (reads as a name in the rules)
    """An axis that follows the channels of the call's `port`-th input."""
    return Axis("in", port, **how)


def Out(port: int = 0, **how: Any) -> Axis:  # noqa: N802
    """An axis that follows the channels of the call's `port`-th output."""
    return Axis("out", port, **how)


def Inside(port: int = 0, **how: Any) -> Axis:  # noqa: N802
    """An axis that follows the `port`-th of the call's hidden widths."""
    return Axis("hidden", port, **how)


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A width inside a layer that no tensor shows, such as the heads of an attention: its name, and its ids int[width].

    A product of three free widths is beyond a quadratic program: where one would come about, the last hidden width of
    the layer is frozen.
    """

    name: str
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Computed:
    """A configuration value that depends on widths: `compute(number kept along each of axes)`."""

    axes: tuple[Axis, ...]
    compute: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A call argument that lists, for each channel of the output, the channel of the input it comes from."""

    index: tuple[int, ...]

    def renumber(self, in_index: Sequence[int], out_index: Sequence[int]) -> list[int]:
        """The same list after only these channels of the input and of the output have stayed, in this order."""
        place = {channel: number for number, channel in enumerate(in_index)}
        return [place[self.index[channel]] for channel in out_index]


Values = Mapping[str, np.ndarray]
"""Weight name -> values of one layer."""

Macs = tuple[tuple[int | None, tuple[Axis, ...]], ...]
"""Multiply-accumulates of a call for one sample: products `(coefficient, axes)`, to be summed."""

Adapter = Callable[[Any, str], Any]
"""(symbolic tensor, name) -> what goes on instead; the operations put in between are named after the name."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a rule says of one call.

    Attributes:
        outputs: channels of each output tensor.
        weights: weight name -> for each of its axes an `Axis`, or None where it follows no channel. Names that the
            layer does not have (a bias that is switched off) are ignored; a weight that is missing here freezes it.
        config: new values of configuration entries, any nesting, with an `Axis` where its width belongs, or `Computed`.
        macs: products `(coefficient, axes)`; the coefficient is None where a spatial size is unknown.
        arguments: new values of call arguments by parameter name, for operations whose call holds what a layer has in
            its configuration (the bounds of a slice); an `Axis` where a width belongs, or a `Lookup`.
        hidden: widths inside the layer that may shrink too.
        reads: weight name -> numbers of its axes that read channels: in the masked original, dropped ones are zeroed
            there. Axes on the "in" side of a weight with several followed axes read anyway.
        zeroed: ports of inputs that the call reads without a kernel, such as a norm over channels: in the masked
            original, dropped channels are zeroed on entry.
        after: what the pruned network does to the first output to make up for channels that are gone, if anything.
        slicer: makes the new weights of the layer of the old ones; left out, they are taken along `weights`.
    """

    outputs: tuple[Channels, ...]
    weights: Mapping[str, tuple[Axis | None, ...]] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    macs: Macs = ()
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hidden: tuple[Hidden, ...] = ()
    reads: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    zeroed: tuple[int, ...] = ()
    after: Callable[[LayerPlan], Adapter | None] | None = None
    slicer: Callable[[Values, LayerPlan], Values] | None = None

    @property
    def edits(self) -> bool:
        """Whether pruning can change the layer object itself, or what is put around it."""
        followed = any(a is not None for axes in self.weights.values() for a in axes)
        return bool(self.config or self.arguments or followed or self.zeroed or self.after)

    @property
    def held(self) -> tuple[np.ndarray, ...]:
        """All ids that the call brings along: of its outputs, and of the widths inside it."""
        return (*(x.ids for x in self.outputs), *(h.ids for h in self.hidden))

    def reading(self, weight: str) -> tuple[int, ...]:
        """Numbers of the axes of a weight along which dropped channels are zeroed in the masked original."""
        axes = self.weights[weight]
        mixes = sum(a is not None for a in axes) > 1
        own = [number for number, a in enumerate(axes) if mixes and a is not None and a.side == "in"]
        return tuple(sorted({*own, *self.reads.get(weight, ())}))


def ids_along(spec: Spec, inputs: Sequence[Channels], axis: Axis) -> np.ndarray:
    """The ids along an axis of a call with these inputs."""
    if axis.side == "hidden":
        return axis.follow(spec.hidden[axis.port].ids)
    return axis.follow((inputs if axis.side == "in" else spec.outputs)[axis.port].ids)


class Frozen(Exception):  # noqa: N818 (a verdict, not a failure)
    """Raised by a rule: this call cannot be followed, freeze all channels it touches, for this reason."""


class Call(Protocol):
    """What a rule sees: the node, the channels of its inputs, and what it may do to ids."""

    node: Node
    inputs: tuple[Channels, ...]
    group_conv: str

    def fresh(self, port: int = 0, axis: int | None = None) -> Channels:
        """New ids for the `port`-th output along `axis` (default: the last)."""

    def hide(self, name: str, size: int) -> Hidden:
        """A width inside the layer, with new ids."""

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


def substitute(value: Any, width: Callable[[Axis], int]) -> Any:
    """Replaces every `Axis` in a nested configuration value by `width(axis)`, and computes what depends on widths."""
    if isinstance(value, Axis):
        return width(value)
    if isinstance(value, Computed):
        return value.compute(*map(width, value.axes))
    if isinstance(value, (tuple, list)):
        return type(value)(substitute(v, width) for v in value)
    if isinstance(value, dict):
        return {key: substitute(v, width) for key, v in value.items()}
    if isinstance(value, slice):
        return slice(*(substitute(v, width) for v in (value.start, value.stop, value.step)))
    return value
