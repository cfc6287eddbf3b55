"""What a sum over operators lacks to be the cost of a network: caches, and calls that each piece pays for.

Whole networks of random widths say so. Each geometry gets a factor near 1, by least squares with a prior: as many
factors as geometries, fewer networks than that, and every one of them is measured with some noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tflite_tools.latency.geometry import Widths
from tflite_tools.latency.model import LatencyModel

Whole = tuple[tuple[Widths, ...], float]
"""Widths of all operators of a network, and its milliseconds."""

_NOISE, _FACTORS, _CONSTANT = 0.01, 0.1, 0.1  # standard deviations: of a measurement, of factors, of the constant
_EXACT = 1e-4  # the network that is pruned is met so well


def corrected(model: LatencyModel, wholes: Sequence[Whole]) -> LatencyModel:
    """The model with factors and a constant, such that the network as it is costs what was measured."""
    full = model.measured_ms
    networks = [(tuple(op.widths for op in model.ops), full), *wholes]
    costs = np.array([cost for _, cost in networks])
    shares = np.array([_by_row(model, widths) for widths, _ in networks])
    spread = np.array([_EXACT, *[_NOISE] * len(wholes)])
    # Unknown are the factors less one, and the constant as a share of the whole.
    rows = np.c_[shares, np.full(len(costs), full)] / (costs * spread)[:, None]
    wanted = (costs - shares.sum(1)) / (costs * spread)
    prior = np.diag(1 / np.array([*[_FACTORS] * len(model.rows), _CONSTANT]))
    found = np.linalg.lstsq(np.r_[rows, prior], np.r_[wanted, np.zeros(len(prior))], rcond=None)[0]
    scales = np.clip(1 + found[:-1], 0.5, 2.0)
    changed = tuple(dataclasses.replace(row, scale=float(s)) for row, s in zip(model.rows, scales, strict=True))
    return _closed(dataclasses.replace(model, rows=changed, overhead_ms=0.0, constant_ms=0.0))


def _closed(model: LatencyModel) -> LatencyModel:
    """With the constant, or what each call costs too much, that is left at the network as it is."""
    full = model.measured_ms
    short = full - model.predict()
    if short >= 0:
        return dataclasses.replace(model, constant_ms=short)
    low, high = 0.0, max(model.rows[op.row].at(op.widths) for op in model.ops)
    for _ in range(60):
        middle = (low + high) / 2
        too_much = dataclasses.replace(model, overhead_ms=middle).predict() > full
        low, high = (middle, high) if too_much else (low, middle)
    return dataclasses.replace(model, overhead_ms=high)


def _by_row(model: LatencyModel, widths: Sequence[Widths]) -> np.ndarray:
    """float[rows]: what the operators of each geometry cost, uncorrected."""
    found = np.zeros(len(model.rows))
    for op, w in zip(model.ops, widths, strict=True):
        row = model.rows[op.row]
        found[op.row] += dataclasses.replace(row, scale=1.0).at(w)
    return found


def only(model: LatencyModel, form: str) -> LatencyModel:
    """The same model with one form everywhere it was fitted."""
    rows = tuple(dataclasses.replace(r, chosen=form if form in r.forms else r.chosen) for r in model.rows)
    return dataclasses.replace(model, rows=rows)
