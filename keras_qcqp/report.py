"""What happened, for people: one table of layers, one of budgets, and what was frozen and why."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from keras_qcqp import resources
from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import BudgetError
from keras_qcqp.limits.budget import Budget
from keras_qcqp.partition import FrozenLayer
from keras_qcqp.plan import Plan, plan_from
from keras_qcqp.problem import Problem, Solution
from keras_qcqp.residual.alignment import Alignment, alignments
from keras_qcqp.residual.moves import KINDS

_LAYER_RESOURCES = ("macs", "params")


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer; each pair is (before, after), None where the resource cannot be counted."""

    layer: str
    kind: str
    channels: tuple[int, int]
    macs: tuple[int, int] | None
    params: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class BudgetRow:
    """One resource: before, after, and the limit if there was one."""

    resource: str
    unit: str
    before: int
    after: int
    limit: int | None


@dataclasses.dataclass(frozen=True)
class Report:
    """Before and after, per layer and in total.

    Attributes:
        asked: the budget as the user wrote it.
        uncounted: layers with weights whose MACs no rule counts.
        latencies: what was predicted and measured, a line for each latency limit that was verified.
        alignments: what every operand of a union addition needs at run time; empty for tied residuals.
    """

    model: str
    asked: str
    layers: tuple[LayerRow, ...]
    budgets: tuple[BudgetRow, ...]
    frozen: tuple[FrozenLayer, ...]
    uncounted: tuple[str, ...]
    solution: str
    alignments: tuple[Alignment, ...] = ()
    latencies: tuple[str, ...] = ()

    def to_json(self) -> str:
        """All fields as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def __str__(self) -> str:
        parts = [f"Pruned '{self.model}' to {self.asked}", "", _render(_layer_table(self)), ""]
        parts += [_render(_budget_table(self)), ""]
        parts.append(f"solver: {self.solution}")
        parts += self.latencies
        if self.frozen:
            parts.append("frozen (all channels kept):")
            parts += [f"  {f.node} ({f.kind}), {f.num_channels} channels: {f.reason}" for f in self.frozen]
        else:
            parts.append("frozen: nothing but the network's inputs and outputs")
        if self.alignments:
            parts.append(_alignment_line(self.alignments))
        if self.uncounted:
            parts.append(f"MACs not counted for: {', '.join(self.uncounted)}")
        return "\n".join(parts)


def make_report(
    coupling: Coupling,
    problem: Problem,
    original: Mapping[str, int],
    solution: Solution,
    asked: Budget,
    plan: Plan | None = None,
) -> Report:
    """Tells the story of one prune.

    Args:
        plan: the plan of the solution; made anew where it is not at hand.
    """
    full = np.ones(len(coupling.mask_of), bool)
    alive = coupling.alive(solution.keep)
    shares = {name: _shares(coupling, name, full, alive) for name in _LAYER_RESOURCES}
    rows = []
    for node in coupling.first_calls():
        spec = coupling.specs[node.name]
        if node.weights or spec.edits:
            ids = spec.outputs[0].ids
            channels = (len(ids), int(alive[ids].sum()))
            macs, params = (shares[name].get(node.layer) for name in _LAYER_RESOURCES)
            rows.append(LayerRow(node.layer, node.kind, channels, macs, params))
            for h in spec.hidden:
                rows.append(LayerRow(f"{node.layer}/{h.name}", "", (len(h.ids), int(alive[h.ids].sum())), None, None))
    units = {r.name: r.unit for r in problem.resources}
    return Report(
        model=coupling.graph.name,
        asked=str(asked),
        layers=tuple(rows),
        budgets=tuple(
            BudgetRow(name, units[name], before, solution.usage[name], problem.limits.get(name))
            for name, before in original.items()
        ),
        frozen=coupling.frozen,
        uncounted=_uncounted(coupling, asked),
        solution=f"{solution.status}, objective {solution.objective:.6g}, bound {solution.bound:.6g}, "
        f"gap {solution.gap:.2%}, seed {solution.seed}",
        alignments=alignments(coupling, plan or plan_from(coupling, solution.keep)),
    )


def _alignment_line(found: Sequence[Alignment]) -> str:
    """How the operands of union additions are brought to the channels of their sums."""
    times = collections.Counter(a.kind for a in found)
    kinds = ", ".join(f"{times[kind]} {kind}" for kind in KINDS if times[kind])
    written = [a.bytes for a in found]
    size = "an unknown number of" if None in written else f"{sum(b for b in written if b is not None):,}"
    sums = len({a.node for a in found})
    return f"alignments: {len(found)} operands of {sums} additions: {kinds}; they write {size} B for one sample"


def _shares(coupling: Coupling, name: str, full: np.ndarray, alive: np.ndarray) -> dict[str, tuple[int, int]]:
    try:
        before, after = resources.by_layer(coupling, name, full), resources.by_layer(coupling, name, alive)
    except BudgetError:
        return {}  # unknown sizes: the column stays empty
    return {layer: (before[layer], after[layer]) for layer in before}


def _uncounted(coupling: Coupling, asked: Budget) -> tuple[str, ...]:
    """Layers with a matrix of weights but no MAC count; they matter when MACs are limited."""
    if "macs" not in {limit.resource for limit in asked.asked()}:
        return ()
    return tuple(
        node.layer
        for node in coupling.first_calls()
        if not coupling.specs[node.name].macs
        and any(len(w.shape) > 1 for w in node.weights.values())
        and any(f.node == node.name for f in coupling.frozen)
    )


def _layer_table(report: Report) -> Table:
    table = _table(("layer", "left"), ("class", "left"), ("channels", "right"), ("MACs", "right"), ("params", "right"))
    for row in report.layers:
        table.add_row(row.layer, row.kind, _arrow(row.channels), _arrow(row.macs), _arrow(row.params))
    return table


def _budget_table(report: Report) -> Table:
    table = _table(("total", "left"), ("before", "right"), ("after", "right"), ("left", "right"), ("limit", "right"))
    table.add_column("used", justify="right")
    for row in report.budgets:
        share = f"{row.after / row.before:.1%}" if row.before else "-"
        limit, used = ("-", "-") if row.limit is None else (f"{row.limit:,}", f"{row.after / max(row.limit, 1):.2%}")
        table.add_row(f"{row.resource} [{row.unit}]", f"{row.before:,}", f"{row.after:,}", share, limit, used)
    return table


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def _arrow(pair: tuple[int, int] | None) -> str:
    if pair is None:
        return "-"
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} -> {pair[1]:,}"


def _render(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200, color_system=None, markup=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
