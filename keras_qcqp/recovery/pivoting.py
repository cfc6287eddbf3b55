"""Which channels a set of readers needs most: column-pivoted QR of what they read, by way of Gram matrices.

Pivoted QR of a matrix X takes the column with the largest part that those before do not explain; diagonally pivoted
Cholesky of X'X takes the same ones, and X'X is a sum over examples, so that memory does not grow with their number. The
square halves the digits: parts below 1e-10 of the mean diagonal entry count as nothing.

Source: Zhang, Davoodi, Hu, "Efficient inference of CNNs via channel pruning" (arXiv 1908.03266), for the idea that
pivoted QR prunes any given number of input channels. Which matrix is factored is not known to us. Ours: columns are
weighted with the norms of the kernel that reads them; several readers of one mask share their pivots, and each counts
by the share of its inputs that is left; a selection is strengthened by the swaps of Gu and Eisenstat, "Efficient
algorithms for computing a strong rank-revealing QR factorization" (SIAM J. Sci. Comput. 17, 1996), since plain pivoting
can leave out what matters (their section 2: Kahan's matrices).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from keras_qcqp.recovery.elimination import Elimination, Reading
from keras_qcqp.recovery.normal_equations import pull

_NOTHING = 1e-10
_SWAP = 2.0
"""A swap has to enlarge the volume of the chosen columns by this factor, so that there are few of them."""


def pivot(readings: Sequence[Reading], num_channels: int, ridge: float, stops: Collection[int]) -> Elimination:
    """Takes out all channels, at every stop those that the pivots of the rest do without.

    The selections are nested from the top: what is left at one stop is chosen from what was left at the stop before.

    Args:
        stops: numbers of channels that are gone, where kernels are wanted, fitted to what is left.
    """
    grams = [weighted_gram(reading) for reading in readings]
    alive, order, costs, kernels = np.arange(num_channels), list[int](), list[float](), dict[int, list[np.ndarray]]()
    level = 0.0
    for gone in sorted({*stops, num_channels} - {0}):
        ranked, drops = ranked_by_pivots(grams, alive, num_channels - gone)
        alive, leaving = ranked[: num_channels - gone], ranked[num_channels - gone :]
        fits = [_fit(reading, np.sort(alive), ridge) for reading in readings]
        if gone in stops:
            kernels[gone] = fits
        missed = sum(_missed(reading, fit) for reading, fit in zip(readings, fits, strict=True))
        order += leaving[::-1].tolist()
        costs += _shares(drops[num_channels - gone :][::-1], max(missed - level, 0.0))
        level = max(missed, level)
    return Elimination(np.array(order, np.int64), np.array(costs, np.float64), kernels)


def _shares(drops: np.ndarray, rise: float) -> list[float]:
    total = float(drops.sum())
    return (drops / total * rise if total > 0 else np.full(len(drops), rise / len(drops))).tolist()


def weighted_gram(reading: Reading) -> np.ndarray:
    """float64[channels, channels]: products of what is read of two channels, times the norms of the kernel there.

    Summed over the taps that read a channel (all positions of a flattened one); as a share of its trace.
    """
    inputs = reading.inputs
    gram = sum(
        (reading.covariance[np.ix_(rows, rows)] for rows in inputs.T), np.zeros((len(inputs), len(inputs)), np.float64)
    )
    norms = np.sqrt(np.square(reading.kernel[inputs]).sum(axis=(1, 2)))
    gram = gram * norms[:, None] * norms
    trace = float(np.trace(gram))
    return gram / trace if trace > 0 else gram


def ranked_by_pivots(grams: Sequence[np.ndarray], alive: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The channels `alive` in the order of their pivots, the first `count` strengthened, and what each explains.

    Args:
        grams: float64[channels, channels] of each reader.

    Returns:
        int[alive], and float64[alive]: by how much the unexplained diagonal shrinks with each.
    """
    parts = [gram[np.ix_(alive, alive)] for gram in grams]
    first, _ = _pivots(parts, [])
    chosen = _strengthened(parts, first[:count])
    order, drops = _pivots(parts, chosen)
    return alive[order], drops


def _pivots(grams: Sequence[np.ndarray], front: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All columns by pivots, those of `front` before the others; and what each explains."""
    size = len(grams[0]) if grams else 0
    left = [gram.copy() for gram in grams]
    free, order, drops = np.ones(size, bool), list[int](), list[float]()
    wanted = set(front)
    for step in range(size):
        diagonal = np.sum([np.diag(gram) for gram in left], axis=0)
        allowed = free & np.isin(np.arange(size), list(wanted)) if step < len(front) else free
        column = int(np.argmax(np.where(allowed, diagonal, -np.inf)))
        before = float(np.maximum(diagonal[free], 0.0).sum())
        for gram, whole in zip(left, grams, strict=True):
            _explain(gram, column, _NOTHING * float(np.trace(whole)) / size)
        free[column] = False
        after = np.sum([np.diag(gram) for gram in left], axis=0)
        order.append(column)
        drops.append(max(before - float(np.maximum(after[free], 0.0).sum()), 0.0))
        wanted.discard(column)
    return np.array(order, np.int64), np.array(drops)


def _explain(gram: np.ndarray, column: int, nothing: float) -> None:
    """Takes out of a Gram matrix what one column explains (a step of the Cholesky factorisation)."""
    pivot_ = float(gram[column, column])
    if pivot_ > nothing:
        gram -= np.outer(gram[:, column], gram[column]) / pivot_
    gram[column, :] = gram[:, column] = 0.0


def _strengthened(grams: Sequence[np.ndarray], chosen: np.ndarray) -> list[int]:
    """Swaps a chosen column with another one while that enlarges the volume of the chosen enough.

    The squared ratio of volumes is `(G_SS^-1)_ii (schur complement)_jj + (G_SS^-1 G_Sj)_i^2` (Gu and Eisenstat, lemma
    3.1); of several readers the geometric mean counts.
    """
    size, kept = len(grams[0]) if grams else 0, list(map(int, chosen))
    if not kept or len(kept) == size:
        return kept
    padded = [gram + pull(gram, _NOTHING) for gram in grams if np.trace(gram) > 0]
    for _ in range(size):
        others = np.setdiff1d(np.arange(size), kept)
        logs = [np.log(np.maximum(_volumes(gram, np.array(kept), others), np.finfo(float).tiny)) for gram in padded]
        mean = np.mean(logs, axis=0) if logs else np.zeros((len(kept), len(others)))
        i, j = np.unravel_index(int(np.argmax(mean)), mean.shape)
        if mean[i, j] <= 2 * np.log(_SWAP):
            break
        kept[i] = int(others[j])
    return kept


def _volumes(gram: np.ndarray, kept: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64[kept, others]: squared ratio of volumes after each swap."""
    inverse = np.linalg.inv(gram[np.ix_(kept, kept)])
    across = gram[np.ix_(kept, others)]
    mixed = inverse @ across
    schur = np.diag(gram)[others] - np.einsum("ij,ij->j", across, mixed)
    return np.diag(inverse)[:, None] * np.maximum(schur, 0.0) + mixed**2


def _fit(reading: Reading, alive: np.ndarray, ridge: float) -> np.ndarray:
    """The kernel fitted to what is left of the channels; zero where the others were."""
    rows = reading.inputs[alive].ravel()
    gone = np.setdiff1d(reading.inputs.ravel(), rows)
    stays = np.setdiff1d(np.arange(len(reading.kernel)), gone)
    gram = reading.covariance + pull(reading.covariance, ridge)
    kernel = np.zeros_like(reading.kernel, dtype=np.float64)
    if len(stays):
        kernel[stays] = np.linalg.solve(gram[np.ix_(stays, stays)], gram[stays] @ reading.kernel)
    return kernel


def _missed(reading: Reading, kernel: np.ndarray) -> float:
    """Share of the reader's output that a fit misses."""
    lost = reading.kernel - kernel
    whole = float(np.einsum("io,ij,jo->", reading.kernel, reading.covariance, reading.kernel, optimize=True))
    missed = float(np.einsum("io,ij,jo->", lost, reading.covariance, lost, optimize=True))
    return missed / whole if whole > 0 else 0.0
