"""Pivoted QR by way of Gram matrices, against QR of the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, images, shake
from test_reconstruction import reading, residual

import keras_qcqp
from keras_qcqp.importance.reconstruction import Reconstruction
from keras_qcqp.recovery.elimination import Reading
from keras_qcqp.recovery.pivoting import pivot, ranked_by_pivots, weighted_gram


def rows_of(seed: int, channels: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(50, channels)) @ random.normal(size=(channels, channels))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_pivots_are_those_of_qr(seed, channels):
    """Without swaps (all columns are chosen) the order is LAPACK's, and so is what each column explains."""
    rows = rows_of(seed, channels)
    order, drops = ranked_by_pivots([rows.T @ rows], np.arange(channels), channels)
    _, r, pivots = scipy.linalg.qr(rows, mode="economic", pivoting=True)
    assert order.tolist() == pivots.tolist()
    explained = [float(np.square(r[k:, k:]).sum() - np.square(r[k + 1 :, k + 1 :]).sum()) for k in range(channels)]
    np.testing.assert_allclose(drops, explained, rtol=1e-6)


def kahan(size: int, c: float = 0.285) -> np.ndarray:
    """Kahan's matrix; its columns shrink a little, so that rounding makes no ties."""
    s = np.sqrt(1 - c * c)
    matrix = np.diag(s ** np.arange(size)) @ (np.eye(size) - c * np.triu(np.ones((size, size)), 1))
    return matrix * (1 - 1e-10) ** np.arange(size)


def test_swaps_where_plain_pivoting_fails():
    """Plain pivoting of Kahan's matrix leaves the columns as they are and misses how dependent they are."""
    matrix = kahan(60)
    gram = matrix.T @ matrix
    _, _, plain = scipy.linalg.qr(matrix, pivoting=True)
    chosen = ranked_by_pivots([gram], np.arange(60), 59)[0][:59]

    def smallest(columns: np.ndarray) -> float:
        return float(np.linalg.svd(matrix[:, columns], compute_uv=False)[-1])

    assert plain.tolist() == list(range(60))
    # The 59th singular value bounds what any 59 columns can have: a strong selection comes near, a plain one does not.
    best = np.linalg.svd(matrix, compute_uv=False)[-2]
    assert smallest(chosen) > 0.1 * best > 100 * smallest(plain[:59])


@pytest.mark.parametrize("taps", [1, 3])
def test_costs_are_what_fits_miss(taps):
    one, rows = reading(6, taps, 4)
    found = pivot([one], 6, ridge=1e-12, stops=[2, 4])
    assert sorted(found.order.tolist()) == list(range(6)) and len(found.costs) == 6
    for gone in (2, 4, 6):
        kept = np.sort(one.inputs[found.order[gone:]].ravel())
        np.testing.assert_allclose(found.costs[:gone].sum(), residual(rows, one.kernel, kept), rtol=1e-6, atol=1e-9)
    kept = np.sort(one.inputs[found.order[2:]].ravel())
    fit = np.linalg.lstsq(rows[:, kept], rows @ one.kernel, rcond=None)[0]
    np.testing.assert_allclose(found.kernels[2][0][kept], fit, atol=1e-6)
    assert not found.kernels[2][0][one.inputs[found.order[:2]].ravel()].any()


def test_dependent_channels_cost_nothing():
    """Of 8 channels that are mixtures of 3, any number down to 3 is enough."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(200, 3)) @ random.normal(size=(3, 8))
    one = Reading(rows.T @ rows / 200, random.normal(size=(8, 5)), np.arange(8)[:, None])
    found = pivot([one], 8, ridge=1e-12, stops=range(1, 8))
    assert found.costs[:5].sum() < 1e-8 < found.costs[5]


def test_several_readers_share_pivots_whatever_their_scale():
    (a, _), (b, _) = reading(5, 1, 3), reading(5, 2, 2)
    both = pivot([a, b], 5, ridge=1e-9, stops=[1, 3]).order.tolist()
    large = Reading(a.covariance * 1e6, a.kernel * 1e-2, a.inputs)
    assert pivot([large, b], 5, ridge=1e-9, stops=[1, 3]).order.tolist() == both
    assert np.trace(weighted_gram(large)) == pytest.approx(1)


@pytest.mark.parametrize("reader", ["nothing read", "zeros"])
def test_channels_that_count_for_nothing(reader):
    one, _ = reading(4, 1, 2)
    none = np.zeros((4, 0), int) if reader == "nothing read" else one.inputs
    silent = Reading(one.covariance * (reader != "zeros"), one.kernel, none)
    found = pivot([silent], 4, ridge=1e-3, stops=[2])
    assert sorted(found.order.tolist()) == [0, 1, 2, 3] and np.isfinite(found.costs).all()


@pytest.mark.parametrize("name", ["residual", "inverted_residual"])
def test_prune_by_pivots(name):
    model = shake(NETWORKS[name]())
    data = images(model, count=48)
    quick = Reconstruction(probes=(0.25, 0.75), ranking=pivot)
    result = keras_qcqp.prune(model, {"macs": 0.6}, data=data, importance=quick, time_limit_s=2)
    assert keras_qcqp.measure(result.model)["macs"] <= 0.6 * keras_qcqp.measure(model)["macs"]
    assert result.recovery is not None
