"""Milliseconds on a device as a limit like any other: exact tables over the counts of masks, in nanoseconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.deployed import deployed
from keras_qcqp.deployed.program import Op, Value
from keras_qcqp.errors import BudgetError
from keras_qcqp.limits.latency_file import FileOp, LatencyFile
from keras_qcqp.limits.latency_limit import NAME, LatencyLimit
from keras_qcqp.problem import Resource
from keras_qcqp.resources import multiplicities


def as_resource(coupling: Coupling, limit: LatencyLimit) -> Resource:
    """What a network costs on the device, over the counts of masks.

    Raises:
        BudgetError: the file belongs to another network, or an operator depends on more than two masks.
    """
    file, tables = limit.load(), dict[tuple[int, ...], np.ndarray]()
    constant = file.constant
    for place in _places(coupling, file, whole=True):
        key, table = place.table(coupling)
        if key:
            tables[key] = tables[key] + table if key in tables else table
        else:
            constant += int(table)
    return Resource(limit.key, "ns", constant, {}, {}, tables)


def by_layer(coupling: Coupling, limit: LatencyLimit, alive: np.ndarray) -> dict[str, int]:
    """Layer path -> nanoseconds when the channels in bool[channels] `alive` are kept; without the constant."""
    shares: dict[str, int] = {}
    for place in _places(coupling, limit.load()):
        value = place.cost(place.given.count(alive), place.made.count(alive))
        shares[place.op.node.layer] = shares.get(place.op.node.layer, 0) + int(value)
    return shares


def mask_steps(coupling: Coupling, file: LatencyFile) -> dict[int, set[int]]:
    """Mask -> the steps in which kernels that make or read its channels work, per channel of the mask.

    Raises:
        BudgetError: the file belongs to another network.
    """
    found: dict[int, set[int]] = {}
    for place in _places(coupling, file):
        if place.op.kind not in _KERNELS:
            continue
        for side, step in zip((place.given, place.made), file.steps[place.known.row], strict=True):
            for mask, times in _free(coupling, side)[1].items():
                found.setdefault(mask, set()).add(max(1, step // math.gcd(step, times)))
    return found


_CONVERTING = ("QUANTIZE", "DEQUANTIZE")  # at inputs and outputs; there or not by the recipe
_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@dataclasses.dataclass(frozen=True, eq=False)
class _Side:
    """A width: channels that may go, and how many more there are."""

    ids: np.ndarray
    fixed: int

    def count(self, alive: np.ndarray) -> int:
        return self.fixed + int(alive[self.ids].sum())


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """An operator of the network, and the operator of the file that says what it costs."""

    op: Op
    known: FileOp
    file: LatencyFile
    given: _Side
    made: _Side

    def cost(self, given: np.ndarray | int, made: np.ndarray | int) -> np.ndarray:
        return self.file.cost(self.known, given, made)

    def table(self, coupling: Coupling) -> tuple[tuple[int, ...], np.ndarray]:
        """The masks that decide, ascending, and the cost at every count of theirs."""
        sides = [side if width is not None else _NOTHING for side, width in self._sides()]
        free = [_free(coupling, side) for side in sides]
        masks = sorted({mask for _, times in free for mask in times})
        if len(masks) > 2:
            names = ", ".join(coupling.masks[m].name for m in masks)
            raise BudgetError(
                f"The latency of '{self.op.node.layer}' ({self.op.kind}) depends on {len(masks)} sets of channels that "
                f"are kept independently ({names}); at most two can be stated. Tie some of them with "
                "widths={'together': ...}, freeze them, or leave the latency budget out."
            )
        counts = [
            np.arange(coupling.masks[m].size + 1).reshape([-1 if k == place else 1 for k in range(len(masks))])
            for place, m in enumerate(masks)
        ]
        widths = [
            np.asarray(held + sum(times.get(m, 0) * k for m, k in zip(masks, counts, strict=True)))
            for held, times in free
        ]
        shape = [coupling.masks[m].size + 1 for m in masks]
        return tuple(masks), np.array(np.broadcast_to(self.cost(*widths), shape))

    def _sides(self) -> tuple[tuple[_Side, int | None], tuple[_Side, int | None]]:
        return (self.given, self.known.given), (self.made, self.known.made)


_NOTHING = _Side(np.zeros(0, np.int64), 0)


def _free(coupling: Coupling, side: _Side) -> tuple[int, dict[int, int]]:
    """How many channels always stay, and the masks of the others with how often each channel appears."""
    held, free = side.fixed, dict[int, int]()
    for mask, times in multiplicities(coupling, side.ids).items():
        coupled = coupling.masks[mask]
        if coupled.frozen:
            held += times * coupled.size
        elif not coupled.dead:
            free[mask] = times
    return held, free


def _places(coupling: Coupling, file: LatencyFile, whole: bool = False) -> Iterator[_Place]:
    """The operators of the deployed network with those of the file, in order.

    Args:
        whole: it is the network that was measured, nothing taken out of it.
    """
    if coupling.joins:
        raise BudgetError(
            f"Latency budgets need residual='tied': how the operands of union additions are aligned, and what that "
            f"takes, is known only after the selection ({len(coupling.joins)} such additions)."
        )
    program = deployed(coupling, file.recipe, NAME)
    ops = [op for op in program.ops.values() if op.kind not in ("INPUT", "CONSTANT")]
    for op, known in zip(ops, _aligned(ops, file, whole), strict=True):
        read = program.ops[op.reads[0]].value if op.reads else op.value
        given, made = _side(read, known.given), _side(op.value, known.made)
        _require_within(op, known, file, (len(given.ids) + given.fixed, len(made.ids) + made.fixed))
        yield _Place(op, known, file, given, made)


def _side(value: Value, width: int | None) -> _Side:
    if width is None:
        return _NOTHING
    if value.axis is None or value.axis != len(value.shape) - 1:
        return _Side(np.zeros(0, np.int64), value.shape[-1] if value.shape else 1)
    return _Side(value.ids, value.extra)


def _aligned(ops: list[Op], file: LatencyFile, whole: bool) -> list[FileOp]:
    """For each operator that of the file; a network from which branches were taken out has fewer of them."""
    inner = [k for k in file.ops if k.kind not in _CONVERTING]
    if whole and len(inner) != sum(op.kind not in _CONVERTING for op in ops):
        raise BudgetError(_another(file, f"this one has {len(ops)} operators"))
    found: list[FileOp] = []
    rest = iter(file.ops)
    for op in ops:
        known = next((k for k in rest if k.kind == op.kind and k.positions == math.prod(op.value.shape[:-1])), None)
        if known is None or (len(ops) == len(file.ops) and known is not file.ops[len(found)]):
            raise BudgetError(
                _another(file, f"operator {len(found) + 1}, {op.kind} of '{op.node.layer}', is not in it")
            )
        found.append(known)
    return found


def _require_within(op: Op, known: FileOp, file: LatencyFile, widths: tuple[int, int]) -> None:
    for width, measured in zip(widths, (known.given, known.made), strict=True):
        if measured is not None and width > measured:
            raise BudgetError(
                _another(file, f"{op.kind} of '{op.node.layer}' is {width} wide, and was measured up to {measured}")
            )


def _another(file: LatencyFile, what: str) -> str:
    return (
        f"The latency file '{file.path}' was made for another network ('{file.name}', {file.recipe}, {len(file.ops)} "
        f"operators): {what}. Convert this one and run tflite_fit_latency on it."
    )
