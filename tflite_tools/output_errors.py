"""How far results are from what they should be: greatest and mean error, noise, direction, the chosen class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_SAME = 200.0  # decibels; reported where there is no difference at all


@dataclass(frozen=True)
class OutputError:
    """One output of a converted model against the same of the Keras model, over all samples.

    Attributes:
        name: in the signature of the file.
        max_error, mean_error: absolute, in the output's own unit.
        snr_db: signal-to-noise ratio, 10 log10(sum of squares / sum of squared errors).
        cosine: mean over samples of the cosine between both vectors.
        agreement: share of samples with the same greatest value; None where there are no two to choose from.
    """

    name: str
    max_error: float
    mean_error: float
    snr_db: float
    cosine: float
    agreement: float | None


def output_error(name: str, expected: np.ndarray, found: np.ndarray) -> OutputError:
    """Compares float[samples, ...] with float[samples, ...]."""
    right, given = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (expected, found))
    error = np.abs(given - right)
    lengths = np.linalg.norm(right, axis=1) * np.linalg.norm(given, axis=1)
    cosine = np.where(lengths > 0, (right * given).sum(1) / np.maximum(lengths, 1e-300), (error.sum(1) == 0) * 1.0)
    classes = np.shape(expected)[-1] if np.ndim(expected) > 1 else 1
    same = np.argmax(expected, -1) == np.argmax(found, -1) if classes > 1 else None
    return OutputError(
        name,
        float(error.max()),
        float(error.mean()),
        decibels(float((right**2).sum()), float((error**2).sum())),
        float(cosine.mean()),
        None if same is None else float(same.mean()),
    )


def decibels(signal: float, noise: float) -> float:
    """Signal-to-noise ratio of two powers; 200 where there is no noise."""
    if noise <= signal * 10 ** (-_SAME / 10):
        return _SAME
    return 10 * math.log10(max(signal, 1e-300) / noise)


def top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose greatest output is the label: int[samples], or one-hot."""
    labels = np.asarray(labels)
    wanted = labels.argmax(-1) if labels.ndim > 1 and labels.shape[-1] > 1 else labels.reshape(-1)
    return float(np.mean(np.argmax(outputs, -1).reshape(-1) == wanted))
