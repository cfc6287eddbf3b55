"""The cells inside recurrent layers: what their weights follow, and how to configure them anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keras_qcqp.channels import Axis, Frozen
from keras_qcqp.rules.elementwise import activation_name, is_elementwise

Config = Mapping[str, Any]
OwnAxis = Callable[..., Axis]
"""The axis of a cell's units, with what is given done to it."""

GATES: Mapping[str, int] = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1, "ConvLSTMCell": 4}
_CELLS: Mapping[str, tuple[str, str]] = {
    "LSTM": ("lstm_cell", "LSTMCell"),
    "GRU": ("gru_cell", "GRUCell"),
    "SimpleRNN": ("simple_rnn_cell", "SimpleRNNCell"),
    **{f"ConvLSTM{n}D": ("conv_lstm_cell", "ConvLSTMCell") for n in (1, 2, 3)},
}
"""Layer class -> name and class of the one cell it has."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a recurrent layer; `name` leads to its weights, seen from the layer."""

    name: str
    kind: str
    config: Config

    @property
    def gates(self) -> int:
        return GATES[self.kind]

    @property
    def units(self) -> int:
        return self.config[self.width_key]

    @property
    def width_key(self) -> str:
        return "filters" if self.kind == "ConvLSTMCell" else "units"

    @property
    def num_states(self) -> int:
        return 2 if self.kind in ("LSTMCell", "ConvLSTMCell") else 1

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return tuple(self.config.get("kernel_size", ()))

    @property
    def mixing(self) -> str | None:
        """Why the units cannot be told apart, if so."""
        for key in ("activation", "recurrent_activation"):
            if not is_elementwise(self.config.get(key)):
                return f"{key} {activation_name(self.config[key])!r} is not known to work channel by channel"
        return None

    def weights(
        self, source: Axis | None, own: OwnAxis
    ) -> Iterator[tuple[str, tuple[Axis | None, ...], tuple[int, ...]]]:
        """Name of each weight, its axes, and which of them read channels."""
        taps = (None,) * len(self.kernel_size)
        gates, reading = own(tile=self.gates), (len(taps),)
        yield f"{self.name}/kernel", (*taps, source, gates), reading if source else ()
        yield f"{self.name}/recurrent_kernel", (*taps, own(), gates), reading
        if self.config["use_bias"]:
            # Such a GRU adds one bias to what it reads, and one to what it remembers.
            yield f"{self.name}/bias", (None, gates) if self.config.get("reset_after") else (gates,), ()


def cells_of(kind: str, config: Config) -> tuple[Cell, ...]:
    """The cells of a recurrent layer, first to last.

    Raises:
        Frozen: one of them is not a cell of Keras.
    """
    if kind in _CELLS:
        return (Cell(*_CELLS[kind], config),)
    cell = config["cell"]
    if is_from_keras(cell, "StackedRNNCells"):
        prefix = cell["config"]["name"]
        return tuple(_known(inner, f"{prefix}/") for inner in cell["config"]["cells"])
    return (_known(cell, ""),)


def _known(cell: Config, prefix: str) -> Cell:
    for kind in ("LSTMCell", "GRUCell", "SimpleRNNCell"):
        if is_from_keras(cell, kind):
            return Cell(f"{prefix}{cell['config']['name']}", kind, cell["config"])
    raise Frozen(
        f"what cell {cell['class_name']} does to its units is unknown; LSTMCell, GRUCell, SimpleRNNCell and "
        "StackedRNNCells of these are followed"
    )


def is_from_keras(serialised: Any, *kinds: str) -> bool:
    """Whether a serialised object is of one of these classes of Keras itself, and not of a namesake."""
    if not isinstance(serialised, dict) or serialised.get("registered_name") not in (None, serialised["class_name"]):
        return False
    return serialised["class_name"] in kinds and str(serialised.get("module")).startswith("keras.")


def with_widths(kind: str, config: Config, widths: Sequence[Axis]) -> dict[str, Any]:
    """What changes in the configuration of a recurrent layer when its cells have other widths."""
    if kind in _CELLS:
        (cell,) = cells_of(kind, config)
        return {cell.width_key: widths[0]}
    cell = config["cell"]
    if cell["class_name"] != "StackedRNNCells":
        return {"cell": rewritten(cell, {"units": widths[0]})}
    inner = [rewritten(c, {"units": w}) for c, w in zip(cell["config"]["cells"], widths, strict=True)]
    return {"cell": rewritten(cell, {"cells": inner})}


def rewritten(serialised: Config, edits: Config) -> dict[str, Any]:
    """A serialised layer with new configuration entries, and without the shapes for which it was built."""
    kept = {key: value for key, value in serialised.items() if key not in ("build_config", "compile_config")}
    return {**kept, "config": {**serialised["config"], **edits}}
