"""Channels that the user wants to live or die together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keras_qcqp.errors import BudgetError
from keras_qcqp.limits.patterns import similar

Together = Sequence[str] | Mapping[str, Sequence[int]]
"""Layers with the same output channels, element by element; or layer -> positions in its output that are one."""

_Ties = list[tuple[np.ndarray, np.ndarray]]


def ties(together: Sequence[Together], outputs: Mapping[str, np.ndarray]) -> _Ties:
    """The pairs of ids to tie.

    Args:
        outputs: layer path -> ids of the channels of its first output.

    Raises:
        BudgetError: an unknown layer, different widths, or positions that do not exist.
    """
    found: _Ties = []
    for item in together:
        found += _block(item, outputs) if isinstance(item, Mapping) else _element_by_element(item, outputs)
    return found


def _element_by_element(layers: Sequence[str], outputs: Mapping[str, np.ndarray]) -> _Ties:
    ids = [_of(layer, outputs) for layer in layers]
    if len({len(x) for x in ids}) > 1:
        widths = ", ".join(f"{layer} {len(x)}" for layer, x in zip(layers, ids, strict=True))
        raise BudgetError(
            f"together: layers keep the same channels only if they have equally many, got {widths}. Use "
            f"{{layer: positions}} to join some of them."
        )
    return [(ids[0], x) for x in ids[1:]]


def _block(positions: Mapping[str, Sequence[int]], outputs: Mapping[str, np.ndarray]) -> _Ties:
    members = []
    for layer, given in positions.items():
        ids = _of(layer, outputs)
        outside = [p for p in given if not 0 <= p < len(ids)]
        if outside:
            raise BudgetError(f"together: '{layer}' has channels 0..{len(ids) - 1}, got {outside[0]}.")
        members.append(ids[list(given)])
    joined = np.concatenate(members)
    return [(np.full(len(joined) - 1, joined[0]), joined[1:])]


def _of(layer: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    if layer not in outputs:
        raise BudgetError(f"together: there is no layer '{layer}'. {similar(layer, outputs)}")
    if not len(outputs[layer]):
        raise BudgetError(f"together: the output of '{layer}' has no channels to follow.")
    return outputs[layer]
