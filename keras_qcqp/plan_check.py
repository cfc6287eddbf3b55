"""Whether a plan fits a model: made for its layers, and saying the same of each channel everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_qcqp.branches.removable import removable_masks, spare_masks
from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import PlanError
from keras_qcqp.plan import Index, Plan, planned, sizes
from keras_qcqp.residual.layout import arranged, free_masks

_Tensor = tuple[str, str, np.ndarray, Index]
"""Layer, "input", "output" or "hidden width", its channels, and what the plan keeps of them."""


def require_match(plan: Plan, coupling: Coupling) -> np.ndarray:
    """bool[channels], which of them the plan keeps; PlanError names the first layer in which plan and model differ."""
    expected = {node.layer: (node.kind, ins, outs, hidden) for node, ins, outs, hidden in planned(coupling)}
    for path, (kind, ins, outs, hidden) in expected.items():
        found = plan.layers.get(path)
        if found is None:
            raise PlanError(_mismatch(plan, coupling, f"layer '{path}' ({kind}) is not in the plan"))
        wanted = {"kind": kind, "in_size": sizes(ins), "out_size": sizes(outs), "hidden_size": sizes(hidden)}
        for field, value in wanted.items():
            if getattr(found, field) != value:
                what = f"layer '{path}' has {field} {value}, the plan says {getattr(found, field)}"
                raise PlanError(_mismatch(plan, coupling, what))
    for path in plan.layers:
        if path not in expected:
            raise PlanError(_mismatch(plan, coupling, f"the plan has layer '{path}', the model does not"))
    return _require_consistent(plan, coupling)


def empties(plan: Plan) -> bool:
    """Whether some tensor or hidden width keeps nothing at all."""
    return any(
        size and not index
        for p in plan.layers.values()
        for sides in ((p.in_size, p.in_index), (p.out_size, p.out_index), (p.hidden_size, p.hidden_index))
        for size, index in zip(*sides, strict=True)
    )


def _require_consistent(plan: Plan, coupling: Coupling) -> np.ndarray:
    """Coupled channels live or die together, in one order, so all layers must say the same of each."""
    tensors = _tensors(plan, coupling)
    alive = _require_one_choice(tensors, coupling)
    _require_one_order(tensors, coupling, alive)
    _require_needs(coupling, alive)
    if empties(plan):
        _require_removable(coupling, alive)
    return alive


def _tensors(plan: Plan, coupling: Coupling) -> list[_Tensor]:
    return [
        (f"'{node.layer}'", side, ids, index)
        for node, ins, outs, hidden in planned(coupling)
        for side, all_ids, all_index in (
            ("input", ins, plan[node.layer].in_index),
            ("output", outs, plan[node.layer].out_index),
            ("hidden width", hidden, plan[node.layer].hidden_index),
        )
        for ids, index in zip(all_ids, all_index, strict=True)
    ]


def _require_removable(coupling: Coupling, alive: np.ndarray) -> None:
    """Only branches that can be taken out may lose all their channels."""
    may = removable_masks(coupling) | spare_masks(coupling)
    for number, mask in enumerate(coupling.masks):
        if number not in may and not mask.dead and not alive[coupling.mask_of == number].any():
            raise PlanError(
                f"The plan keeps no channel of '{mask.name}', at least one must stay: nothing could be built in its "
                "place."
            )


def _require_one_choice(tensors: Sequence[_Tensor], coupling: Coupling) -> np.ndarray:
    """bool[channels], which are kept; frozen ones must be, dead ones must not."""
    frozen = np.array([m.frozen for m in coupling.masks], bool)[coupling.mask_of]
    dead = np.array([m.dead for m in coupling.masks], bool)[coupling.mask_of]
    decided: dict[int, tuple[bool, str]] = {
        c: (True, "is an input or output of the model, or frozen") for c in np.flatnonzero(frozen).tolist()
    }
    decided |= {c: (False, "is nothing but zeros") for c in np.flatnonzero(dead).tolist()}
    for layer, side, channels, index in tensors:
        kept = np.zeros(len(channels), bool)
        kept[list(index)] = True
        for position, (channel, keeps) in enumerate(zip(channels.tolist(), kept.tolist(), strict=True)):
            before, why = decided.setdefault(channel, (keeps, f"{layer} {_verb(keeps)}"))
            if before != keeps:
                raise PlanError(
                    f"The plan contradicts itself: layer {layer} {_verb(keeps)} channel {position} of its {side}, "
                    f"which {why}."
                )
    return np.array([decided.get(c, (True, ""))[0] for c in range(len(frozen))], bool)


def _require_one_order(tensors: Sequence[_Tensor], coupling: Coupling, alive: np.ndarray) -> None:
    free = free_masks(coupling)
    rows: dict[int, tuple[int, ...]] = {}
    for layer, side, channels, index in tensors:
        kept = channels[list(index)]
        for mask in np.unique(coupling.mask_of[kept]).tolist():
            held = kept[coupling.mask_of[kept] == mask].tolist()
            rows.setdefault(mask, tuple(dict.fromkeys(held if free[mask] else sorted(held))))
        if arranged(coupling, channels, alive, rows) != tuple(index):
            raise PlanError(
                f"The plan puts the channels of layer {layer} ({side}) into another order than the layers around it, "
                "or into one that this layer cannot have."
            )


def _require_needs(coupling: Coupling, alive: np.ndarray) -> None:
    """What a sum keeps some operand must bring, and what only sums read one must keep."""
    keep = [np.zeros(m.size, bool) for m in coupling.masks]
    for channel in np.flatnonzero(alive).tolist():
        keep[coupling.mask_of[channel]][coupling.position[channel]] = True
    for need in coupling.needs:
        met = np.any([keep[mask][index] for mask, index in need.sources], axis=0)
        alone = need.index[keep[need.mask][need.index] & ~met]
        if len(alone):
            names = " or ".join(coupling.masks[mask].name for mask, _ in need.sources)
            raise PlanError(
                f"The plan keeps channel {alone[0]} of '{coupling.masks[need.mask].name}' without that of {names}, so "
                "an addition would have nothing to add, or a layer would compute it for nothing."
            )


def _verb(keeps: bool) -> str:
    return "keeps" if keeps else "drops"


def _mismatch(plan: Plan, coupling: Coupling, what: str) -> str:
    return f"The plan was made for model '{plan.model}' and does not fit '{coupling.graph.name}': {what}."
