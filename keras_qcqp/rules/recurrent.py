"""Recurrent layers: units that remember, in one direction or in both."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Frozen, Hidden, Inside, Macs, Out, Rule, Spec
from keras_qcqp.graph import TensorRef
from keras_qcqp.keras_graph import numbered
from keras_qcqp.rules.cells import Cell, OwnAxis, cells_of, is_from_keras, rewritten, with_widths
from keras_qcqp.rules.convolution import read_along
from keras_qcqp.rules.masks import hold_masks

_PARAMETERS = ("sequences", "initial_state", "mask", "training")
Described = list[tuple[str, tuple[Axis | None, ...], tuple[int, ...]]]
"""Name of each weight, its axes, and which of them read channels."""


def recurrent(call: Call) -> Spec:
    """LSTM, GRU, SimpleRNN, ConvLSTM1D/2D/3D and RNN around cells of Keras."""
    config = call.node.config
    cells = cells_of(call.node.kind, config)
    place = _Place(call, config, config["return_sequences"])
    reads = read_along(call, place.given)
    out = call.fresh(axis=place.made)
    hidden = tuple(call.hide(_short(cell), cell.units) for cell in cells[:-1])
    held = [*(h.ids for h in hidden), out.ids]
    _freeze_mixing(call, cells, held)
    own: list[OwnAxis] = [*(functools.partial(Inside, k) for k in range(len(hidden))), functools.partial(Out, 0)]
    states = place.states(cells, held)
    _tie_initial(call, states)
    described, macs = _described(cells, own, reads, place, "")
    outputs = (out, *states) if config["return_state"] else (out,)
    edits = with_widths(call.node.kind, config, [axis() for axis in own])
    return _spec(outputs, described, edits, macs, hidden)


def bidirectional(call: Call) -> Spec:
    """Bidirectional: two recurrent layers of the same width, whose outputs are joined, added or multiplied.

    Keras works out the shape of the output from the forward layer alone, so both keep the same number of units: unit
    j of the one lives or dies with unit j of the other.
    """
    sides = {key: call.node.config[key] for key in ("layer", "backward_layer")}
    known = [layer.__name__ for layer in _RECURRENT]
    for side in sides.values():
        if not is_from_keras(side, *known):
            raise Frozen(f"Bidirectional around {side['class_name']}, which is none of {', '.join(known)}")
    merge, first = call.node.config["merge_mode"], sides["layer"]["config"]
    both = [cells_of(side["class_name"], side["config"]) for side in sides.values()]
    _require_alike(both[0], both[1], first["return_state"])
    place = _Place(call, first, first["return_sequences"])
    if merge == "concat" and place.made != len(call.node.outputs[0].shape) - 1:
        raise Frozen(f"Bidirectional joins along the last axis, the channels lie along axis {place.made}")
    reads = read_along(call, place.given)
    units = both[0][-1].units
    outputs, ends, last = _merged(call, merge, units, place.made)
    names = [side["config"]["name"] for side in sides.values()]
    inner = [(f"{name}/{_short(c)}", c.units) for name, cells in zip(names, both, strict=True) for c in cells[:-1]]
    hidden = tuple(call.hide(*width) for width in inner)
    described, macs, states, depth = Described(), Macs(), list[Channels](), len(both[0]) - 1
    edits = {}
    for number, (key, cells) in enumerate(zip(sides, both, strict=True)):
        mine = range(number * depth, number * depth + len(cells) - 1)
        own: list[OwnAxis] = [*(functools.partial(Inside, k) for k in mine), last[number]]
        held = [*(hidden[k].ids for k in mine), ends[number]]
        _freeze_mixing(call, cells, held)
        states += place.states(cells, held)
        side = sides[key]
        more, cost = _described(cells, own, reads, place, f"{names[number]}/")
        described, macs = described + more, macs + cost
        widths = with_widths(side["class_name"], side["config"], [axis() for axis in own])
        edits[key] = rewritten(side, widths)
    for k in range(depth) if first["return_state"] else ():
        call.tie(hidden[k].ids, hidden[depth + k].ids)
    _tie_initial(call, tuple(states))
    return _spec((*outputs, *states) if first["return_state"] else outputs, described, edits, macs, hidden)


def _merged(
    call: Call, merge: str | None, units: int, axis: int
) -> tuple[tuple[Channels, ...], tuple[np.ndarray, np.ndarray], tuple[OwnAxis, OwnAxis]]:
    """What comes out, the ids of either direction, and the axes along which they lie."""
    out = call.fresh(0, axis)
    if merge is None:
        other = call.fresh(1, axis)
        call.tie(out.ids, other.ids)
        return (out, other), (out.ids, other.ids), (functools.partial(Out, 0), functools.partial(Out, 1))
    if merge != "concat":
        return (out,), (out.ids, out.ids), (functools.partial(Out, 0), functools.partial(Out, 0))
    forward, backward = out.ids[:units], out.ids[units:]
    call.tie(forward, backward)
    parts = functools.partial(Out, 0, start=0, stop=units), functools.partial(Out, 0, start=units, stop=2 * units)
    return (out,), (forward, backward), parts


def _require_alike(forward: Sequence[Cell], backward: Sequence[Cell], states: bool) -> None:
    """Keras takes the shapes of the forward layer for those of both."""
    shown = forward if states else forward[-1:], backward if states else backward[-1:]
    a, b = ([(cell.units, cell.num_states if states else 0) for cell in cells] for cells in shown)
    if a != b:
        units, others = ([cell.units for cell in cells] for cells in shown)
        raise Frozen(f"the two directions differ in the shapes of what they return: {units} and {others} units")


class _Place:
    """Where the channels of a recurrent layer lie, and how often its kernels are applied."""

    def __init__(self, call: Call, config: Mapping[str, Any], sequences: bool) -> None:
        given, made = call.node.inputs[0].shape, call.node.outputs[0].shape
        spatial = len(config.get("kernel_size", ()))
        if len(given) != 3 + spatial:
            raise Frozen(f"recurrent cells with {len(given)} axes in their input; (batch, time, channels) is followed")
        first = config.get("data_format") == "channels_first"
        self.given = 2 if first else len(given) - 1
        self.made = (2 if sequences else 1) if first else len(made) - 1
        self._state_axis = 1 if first else 1 + spatial
        self.steps, self.width = given[1], given[self.given]
        skipped = (0, 1, self.made) if sequences else (0, self.made)
        self._sizes = [size for axis, size in enumerate(made) if axis not in skipped] if spatial else []

    def states(self, cells: Sequence[Cell], held: Sequence[np.ndarray]) -> tuple[Channels, ...]:
        """The states of all cells, in Keras' order."""
        pairs = zip(cells, held, strict=True)
        return tuple(Channels(ids, self._state_axis) for cell, ids in pairs for _ in range(cell.num_states))

    def times(self, cell: Cell) -> int | None:
        """Applications of a kernel, times its positions."""
        sizes = [self.steps, *self._sizes]
        return None if None in sizes else math.prod((*(s or 0 for s in sizes), *cell.kernel_size))


def _described(
    cells: Sequence[Cell], own: Sequence[OwnAxis], reads: Axis | None, place: _Place, prefix: str
) -> tuple[Described, Macs]:
    """Weights and multiply-accumulates of a stack of cells, each of which reads the units of the one before."""
    described, macs, source = Described(), list[tuple[int | None, tuple[Axis, ...]]](), reads
    for cell, axis in zip(cells, own, strict=True):
        described += [(f"{prefix}{name}", axes, reading) for name, axes, reading in cell.weights(source, axis)]
        times = place.times(cell)
        each = None if times is None else times * cell.gates
        if source is None:
            unread = None if each is None or place.width is None else each * place.width
            macs.append((unread, (axis(),)))
        else:
            macs.append((each, (source, axis())))
        macs.append((each, (axis(), axis())))
        source = axis()
    return described, tuple(macs)


def _spec(
    outputs: tuple[Channels, ...],
    described: Described,
    edits: Mapping[str, Any],
    macs: Macs,
    hidden: tuple[Hidden, ...],
) -> Spec:
    names = numbered([name for name, _, _ in described])
    weights = {name: axes for name, (_, axes, _) in zip(names, described, strict=True)}
    reads = {name: reading for name, (_, _, reading) in zip(names, described, strict=True) if reading}
    return Spec(outputs, weights, edits, macs, hidden=hidden, reads=reads)


def _short(cell: Cell) -> str:
    return cell.name.rpartition("/")[2]


def _freeze_mixing(call: Call, cells: Sequence[Cell], held: Sequence[np.ndarray]) -> None:
    for cell, ids in zip(cells, held, strict=True):
        if cell.mixing:
            call.freeze(ids, cell.mixing)


def _tie_initial(call: Call, states: tuple[Channels, ...]) -> None:
    """States that come from elsewhere live or die with the units they start; masks are held."""
    args, kwargs = call.node.arguments
    given = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
    hold_masks(call, _ports(given.get("mask")))
    ports = _ports(given.get("initial_state"))
    if ports and len(ports) != len(states):
        raise Frozen(f"{len(ports)} initial states are given, the layer has {len(states)}")
    for port, state in zip(ports, states, strict=False):
        x = call.inputs[port]
        if x.axis == state.axis:
            call.tie(x.ids, state.ids)
        else:
            for ids in (x.ids, state.ids):
                call.freeze(ids, f"an initial state has its channels along axis {x.axis}, the units {state.axis}")


def _ports(value: Any) -> list[int]:
    """Numbers of the inputs in a call argument."""
    leaves = [leaf for leaf in keras.tree.flatten(value) if leaf is not None]
    if not all(isinstance(leaf, TensorRef) for leaf in leaves):
        raise Frozen("a state or mask is a constant array; make it an input or the output of a layer")
    return [leaf.position for leaf in leaves]


_L = keras.layers
_RECURRENT: list[type] = [_L.LSTM, _L.GRU, _L.SimpleRNN, _L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D, _L.RNN]
RULES: dict[type, Rule] = {**dict.fromkeys(_RECURRENT, recurrent), _L.Bidirectional: bidirectional}
