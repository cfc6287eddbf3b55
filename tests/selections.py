"""Random selections that break no rule but the budgets."""

from __future__ import annotations

import numpy as np

from keras_qcqp.coupling import Coupling


def random_keep(coupling: Coupling, seed: int) -> tuple[np.ndarray, ...]:
    """Respects what is frozen and dead, empties no other mask, and gives every kept channel what it needs."""
    random = np.random.default_rng(seed)
    keep = []
    for mask in coupling.masks:
        kept = np.full(mask.size, mask.frozen) if mask.frozen or mask.dead else _some(mask.size, random)
        keep.append(kept)
    patience = 100
    while _repair(coupling, keep, random, patience > 0):
        patience -= 1
    return tuple(keep)


def _some(size: int, random: np.random.Generator) -> np.ndarray:
    kept = random.random(size) < random.uniform(0.2, 0.9)
    kept[random.integers(size)] = True
    return kept


def _repair(coupling: Coupling, keep: list[np.ndarray], random: np.random.Generator, may_drop: bool) -> bool:
    """Drops what lacks something, or adds what it lacks; False when nothing was missing."""
    changed = False
    for need in coupling.needs:
        for link, channel in enumerate(need.index.tolist()):
            if not keep[need.mask][channel] or any(keep[mask][index[link]] for mask, index in need.sources):
                continue
            changed = True
            if may_drop and keep[need.mask].sum() > 1 and random.random() < 0.5:
                keep[need.mask][channel] = False
            else:
                mask, index = need.sources[random.integers(len(need.sources))]
                keep[mask][index[link]] = True
    return changed
