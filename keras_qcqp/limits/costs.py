"""Costs of the user's own, stated layer by layer: latency tables, energy, or anything else that widths decide."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import Node
from keras_qcqp.limits.patterns import similar
from keras_qcqp.problem import Resource
from keras_qcqp.resources import Term, multiplicities, polynomial


@dataclasses.dataclass(frozen=True, eq=False)
class LayerCost:
    """What each call of a layer costs: `table[i, o] + per_in * i + per_out * o + per_pair * i * o`.

    i and o are the kept channels of the layer's input and first output; behind a Flatten, a channel counts once for
    each position.

    Attributes:
        layer: path of the layer, such as "encoder/conv1".
        table: int[in + 1, out + 1] of the original widths; only if input and output are one coupled set of channels
            each, frozen ones aside.

    Raises:
        BudgetError: values that are no whole numbers >= 0.
    """

    layer: str
    table: np.ndarray | None = None
    per_in: int = 0
    per_out: int = 0
    per_pair: int = 0

    def __post_init__(self) -> None:
        for name in ("per_in", "per_out", "per_pair"):
            _require_whole(f"{name} of layer '{self.layer}'", getattr(self, name))
        if self.table is None:
            return
        table = np.asarray(self.table)
        if table.ndim != 2 or table.dtype.kind not in "iu" or table.min(initial=0) < 0:
            raise BudgetError(
                f"The cost table of layer '{self.layer}' must be int[in + 1, out + 1] >= 0, got shape {table.shape} of "
                f"{table.dtype}. {_UNITS}"
            )
        object.__setattr__(self, "table", table.astype(np.int64))

    def at(self, num_in: int, num_out: int) -> int:
        """The cost of one call at these widths."""
        cost = self.per_in * num_in + self.per_out * num_out + self.per_pair * num_in * num_out
        return int(cost) + (0 if self.table is None else int(self.table[num_in, num_out]))


@dataclasses.dataclass(frozen=True, eq=False)
class CostModel:
    """A resource of the user's own: the sum of what its layers cost, plus a constant; others cost nothing.

    Pass it as `prune(model, {"latency_us": 900}, costs=[CostModel("latency_us", "us", 40, layers)])`.

    Raises:
        BudgetError: a constant that is no whole number >= 0, or two costs for one layer.
    """

    name: str
    unit: str
    constant: int
    layers: tuple[LayerCost, ...]

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in ",=:[]"):
            raise BudgetError(f"The name of a cost model may not be empty or hold any of ,=:[] but got '{self.name}'.")
        _require_whole(f"The constant of cost model '{self.name}'", self.constant)
        object.__setattr__(self, "layers", tuple(self.layers))
        named = [cost.layer for cost in self.layers]
        twice = [layer for layer in named if named.count(layer) > 1]
        if twice:
            raise BudgetError(f"Cost model '{self.name}' has two costs for layer '{twice[0]}'. Add them up.")


def as_resource(coupling: Coupling, model: CostModel) -> Resource:
    """The cost over the counts of masks.

    Raises:
        BudgetError: an unknown layer, or a cost that cannot be stated over the masks of this layer.
    """
    terms: list[Term] = []
    tables: dict[tuple[int, ...], np.ndarray] = {}
    constant = model.constant
    for cost, node in _calls(coupling, model):
        given, made = _sides(coupling, node, cost)
        products = ((cost.per_in, (given,)), (cost.per_out, (made,)), (cost.per_pair, (given, made)))
        terms += [Term(node, int(coefficient), ids) for coefficient, ids in products if coefficient]
        if cost.table is not None:
            key, table = _table(coupling, cost, given, made)
            if key:
                tables[key] = tables[key] + table if key in tables else table
            else:
                constant += int(table)
    summed = polynomial(coupling, model.name, model.unit, terms)
    return dataclasses.replace(summed, constant=summed.constant + constant, tables=tables)


def by_layer(coupling: Coupling, model: CostModel, alive: np.ndarray) -> dict[str, int]:
    """Layer path -> what its calls cost when the channels in bool[channels] `alive` are kept; without the constant."""
    shares: dict[str, int] = {}
    for cost, node in _calls(coupling, model):
        given, made = _sides(coupling, node, cost)
        value = cost.at(int(alive[given].sum()), int(alive[made].sum()))
        shares[node.layer] = shares.get(node.layer, 0) + value
    return shares


def _calls(coupling: Coupling, model: CostModel) -> Iterator[tuple[LayerCost, Node]]:
    calls: dict[str, list[Node]] = {}
    for node in coupling.graph.nodes:
        calls.setdefault(node.layer, []).append(node)
    for cost in model.layers:
        if cost.layer not in calls:
            raise BudgetError(
                f"Cost model '{model.name}': there is no layer '{cost.layer}'. {similar(cost.layer, calls)}"
            )
        yield from ((cost, node) for node in calls[cost.layer])


def _sides(coupling: Coupling, node: Node, cost: LayerCost) -> tuple[np.ndarray, np.ndarray]:
    """Channels of the input and of the output."""
    inputs, made = coupling.inputs[node.name], coupling.specs[node.name].outputs[0].ids
    reads = cost.table is not None or cost.per_in or cost.per_pair
    if reads and len(inputs) != 1:
        raise BudgetError(
            f"The cost of layer '{cost.layer}' depends on its input, but it has {len(inputs)}. State it by per_out."
        )
    given = inputs[0].ids if len(inputs) == 1 else np.zeros(0, np.int64)
    for side, ids in (("input", given), ("output", made)):
        if not len(ids) and (side == "output" or reads):
            raise BudgetError(f"The cost of layer '{cost.layer}': its {side} has no channels that can be counted.")
    return given, made


def _table(
    coupling: Coupling, cost: LayerCost, given: np.ndarray, made: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray]:
    """The masks that decide, and the cost at every count of theirs."""
    table = cost.table
    assert table is not None
    if table.shape != (len(given) + 1, len(made) + 1):
        raise BudgetError(
            f"The cost table of layer '{cost.layer}' has shape {table.shape}, expected "
            f"{(len(given) + 1, len(made) + 1)}: one more than its {len(given)} inputs and {len(made)} outputs."
        )
    (a, rows), (b, columns) = (_widths(coupling, cost, ids) for ids in (given, made))
    if a is not None and a == b:
        return (a,), table[rows, columns]
    picked = table[np.ix_(rows, columns)]
    key = tuple(mask for mask in (a, b) if mask is not None)
    shaped = picked.reshape([n for n, mask in zip(picked.shape, (a, b), strict=True) if mask is not None])
    return tuple(sorted(key)), np.ascontiguousarray(shaped if list(key) == sorted(key) else shaped.T)


def _widths(coupling: Coupling, cost: LayerCost, ids: np.ndarray) -> tuple[int | None, np.ndarray]:
    """The one mask on an axis that is free, and the width of the axis at each of its counts."""
    held, free = 0, list[tuple[int, int]]()
    for mask, times in multiplicities(coupling, ids).items():
        coupled = coupling.masks[mask]
        if coupled.frozen:
            held += times * coupled.size
        elif not coupled.dead:
            free.append((mask, times))
    if len(free) > 1:
        names = ", ".join(coupling.masks[mask].name for mask, _ in free)
        raise BudgetError(
            f"Layer '{cost.layer}' cannot have a cost table: one side of it is made of {len(free)} sets of channels "
            f"that are kept independently ({names}). State its cost by per_in, per_out and per_pair."
        )
    if not free:
        return None, np.array([held])
    mask, times = free[0]
    return mask, held + times * np.arange(coupling.masks[mask].size + 1)


_UNITS = "Use a unit small enough for whole numbers, for example ns."


def _require_whole(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise BudgetError(f"{what} must be a whole number >= 0, got {value!r}. {_UNITS}")


def named(models: Iterable[CostModel]) -> dict[str, CostModel]:
    """Cost models by name.

    Raises:
        BudgetError: what is no cost model, or two of one name.
    """
    found: dict[str, CostModel] = {}
    for model in models:
        if not isinstance(model, CostModel):
            raise BudgetError(f"costs must be CostModel objects, got {model!r}.")
        if model.name in found:
            raise BudgetError(f"Two cost models are called '{model.name}'.")
        found[model.name] = model
    return found
