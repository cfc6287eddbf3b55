"""How a cost depends on widths: the paper's quadratic, the same in steps, and a table.

With u = ceil(k_in / step_in) and v = ceil(k_out / step_out):

* `quadratic`: alpha + beta u + gamma v + delta u v, both steps 1 (Jeong et al., AISTATS 2022, latency model);
* `stepped`: the same with steps that are found from the data: kernels work on 4, 8 or 16 channels at once;
* `table`: measured at a grid of (u, v), linear in between.

All coefficients are >= 0, so that a cost never falls below zero, and relative errors are minimised.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite_tools.errors import ProfileError

STEPS = (1, 2, 4, 8, 16, 32)
NAMES = ("quadratic", "stepped", "table")


@dataclass(frozen=True)
class Form:
    """A fitted cost in the unit of its samples.

    Attributes:
        name: one of `NAMES`.
        steps: of input and output widths; a width that an operator does not have counts as 0.
        coefficients: alpha, beta, gamma, delta; empty for a table.
        grid: (u values, v values) of a table, ascending.
        values: float[u, v] of a table.
    """

    name: str
    steps: tuple[int, int]
    coefficients: tuple[float, ...] = ()
    grid: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    values: np.ndarray | None = None

    def at(self, given: np.ndarray | int, made: np.ndarray | int) -> np.ndarray:
        """The cost at input and output widths, which broadcast."""
        u, v = (-(-np.asarray(k) // step) for k, step in zip((given, made), self.steps, strict=True))
        if self.values is None:
            alpha, beta, gamma, delta = self.coefficients
            return np.asarray(alpha + beta * u + gamma * v + delta * (u * v), np.float64)
        return _interpolated(self.grid, self.values, *np.broadcast_arrays(u, v))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        if self.values is None:
            return {"form": self.name, "steps": list(self.steps), "coefficients": list(self.coefficients)}
        grid = [list(axis) for axis in self.grid]
        return {"form": self.name, "steps": list(self.steps), "grid": grid, "values": self.values.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Form:
        """The inverse of `to_dict`.

        Raises:
            ProfileError: fields are missing.
        """
        try:
            steps = int(stored["steps"][0]), int(stored["steps"][1])
            if "values" not in stored:
                return cls(stored["form"], steps, tuple(float(c) for c in stored["coefficients"]))
            first, second = (tuple(int(k) for k in axis) for axis in stored["grid"])
            return cls(stored["form"], steps, (), (first, second), np.asarray(stored["values"], np.float64))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ProfileError(f"A latency file holds a form that cannot be read: {error!r}. Fit again.") from error


def _interpolated(
    grid: tuple[tuple[int, ...], tuple[int, ...]], values: np.ndarray, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Linear between the points of a grid, constant outside."""
    (i, s), (j, t) = (_place(np.asarray(axis), k) for axis, k in zip(grid, (u, v), strict=True))
    i1, j1 = np.minimum(i + 1, values.shape[0] - 1), np.minimum(j + 1, values.shape[1] - 1)
    low = values[i, j] * (1 - t) + values[i, j1] * t
    high = values[i1, j] * (1 - t) + values[i1, j1] * t
    return low * (1 - s) + high * s


def _place(axis: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid point below, and how far towards the next one."""
    below = np.clip(np.searchsorted(axis, k, side="right") - 1, 0, len(axis) - 1)
    above = np.minimum(below + 1, len(axis) - 1)
    reach = np.maximum(axis[above] - axis[below], 1)
    return below, np.clip((k - axis[below]) / reach, 0.0, 1.0)


Samples = np.ndarray
"""float[samples, 3]: input width, output width (0 where there is none), cost."""


def fit_multiples(train: Samples, multiple: int) -> dict[str, Form]:
    """The forms where nothing but multiples was measured: what lies between costs as much as the next multiple."""
    found = {"stepped": _polynomial("stepped", train, (multiple, multiple))}
    table = _table(train, (multiple, multiple))
    return found if table is None else {**found, "table": table}


def fit_all(train: Samples, grid: Samples, has: tuple[bool, bool]) -> dict[str, Form]:
    """One form of each kind that the samples allow.

    Args:
        train: all samples that may be fitted.
        grid: those of them that lie on a full grid, for the table.
        has: whether the operator has an input width, and an output width.
    """
    found = {"quadratic": _polynomial("quadratic", train, (1, 1))}
    steps = _steps(train, has)
    found["stepped"] = _polynomial("stepped", train, steps)
    tables = [t for s in dict.fromkeys([steps, (1, 1)]) if (t := _table(grid, s)) is not None]
    if tables:
        found["table"] = min(tables, key=lambda form: mean_error(form, train))
    return found


def mean_error(form: Form, samples: Samples) -> float:
    """Mean of |predicted / measured - 1|."""
    if not len(samples):
        return 0.0
    return float(np.mean(np.abs(form.at(samples[:, 0].astype(int), samples[:, 1].astype(int)) / samples[:, 2] - 1)))


def choose(forms: Mapping[str, Form], held_out: Samples) -> str:
    """The simplest form whose error on held-out samples is as small as any, give or take measurement noise."""
    errors = {name: mean_error(form, held_out) for name, form in forms.items()}
    enough = min(errors.values()) * 1.1 + 0.001
    return next(name for name in NAMES if name in errors and errors[name] <= enough)


def _steps(samples: Samples, has: tuple[bool, bool]) -> tuple[int, int]:
    """The steps that explain the samples best; of equal ones the smallest."""
    choices = [STEPS if there and len(set(samples[:, side])) > 2 else (1,) for side, there in enumerate(has)]
    pairs = [(a, b) for a, b in itertools.product(*choices)]
    errors = [mean_error(_polynomial("stepped", samples, pair), samples) for pair in pairs]
    best = min(errors)
    return next(pair for pair, error in zip(pairs, errors, strict=True) if error <= best * 1.02 + 1e-4)


def _polynomial(name: str, samples: Samples, steps: tuple[int, int]) -> Form:
    """Least squares of relative errors with coefficients >= 0: the best over all sets of those that are not 0."""
    u, v = (-(-samples[:, side].astype(int) // step) for side, step in enumerate(steps))
    columns = np.stack([np.ones(len(u)), u, v, u * v], 1) / samples[:, 2:3]
    best, coefficients = np.inf, np.zeros(4)
    for number in range(1, 16):
        chosen = [k for k in range(4) if number >> k & 1]
        found = np.linalg.lstsq(columns[:, chosen], np.ones(len(u)), rcond=None)[0]
        error = float(np.sum((columns[:, chosen] @ found - 1) ** 2))
        if found.min() >= 0 and error < best - 1e-12:
            best, coefficients = error, np.zeros(4)
            coefficients[chosen] = found
    return Form(name, steps, tuple(float(c) for c in coefficients))


def _table(samples: Samples, steps: tuple[int, int]) -> Form | None:
    """Means of the samples in each cell; None where some cell has none."""
    if not len(samples):
        return None
    u, v = (-(-samples[:, side].astype(int) // step) for side, step in enumerate(steps))
    first, second = np.unique(u), np.unique(v)
    sums, counts = np.zeros((len(first), len(second))), np.zeros((len(first), len(second)))
    place = np.searchsorted(first, u), np.searchsorted(second, v)
    np.add.at(sums, place, samples[:, 2])
    np.add.at(counts, place, 1)
    if not counts.all():
        return None
    return Form("table", steps, (), (tuple(first.tolist()), tuple(second.tolist())), sums / counts)


@dataclass(frozen=True)
class Quality:
    """How well predictions fit: mean and greatest |error| in per cent, R^2, rank correlation (Spearman)."""

    mean_percent: float
    worst_percent: float
    r2: float
    spearman: float
    num: int


def quality(predicted: Sequence[float] | np.ndarray, measured: Sequence[float] | np.ndarray) -> Quality:
    """Compares predictions with measurements; correlations of fewer than three are 1."""
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    errors = 100 * np.abs(p / m - 1)
    spread = float(np.sum((m - m.mean()) ** 2))
    r2 = 1 - float(np.sum((p - m) ** 2)) / spread if spread > 0 else 1.0
    rank = float(np.corrcoef(_ranks(p), _ranks(m))[0, 1]) if len(m) > 2 and np.ptp(p) > 0 and np.ptp(m) > 0 else 1.0
    return Quality(float(errors.mean()), float(errors.max()), r2, rank, len(m))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]
