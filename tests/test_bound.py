"""The certificate: never below the optimum, and worth having on real networks."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_qcqp import Mask, Pair, Problem, Resource, evaluate, prune, violations
from keras_qcqp.solvers import bound
from keras_qcqp.solvers.ascent import ascend
from keras_qcqp.solvers.bound import upper_bound
from keras_qcqp.solvers.state import State


def random_problem(seed: int) -> Problem:
    """Up to 4 masks of up to 4 channels, pairs between any of them and within one, up to 3 limited resources."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, random.integers(1, 5))
    least = [int(random.integers(0, n + 1)) for n in sizes]
    masks = tuple(Mask.of(f"m{k}", int(n), least[k], int(random.integers(1, 3))) for k, n in enumerate(sizes))
    every = list(itertools.combinations_with_replacement(range(len(sizes)), 2))
    chosen = [p for p in every if random.random() < 0.7]
    pairs = tuple(Pair(a, b, random.exponential(size=(sizes[a], sizes[b])) ** random.integers(1, 4)) for a, b in chosen)
    linear = {m: random.exponential(size=n) for m, n in enumerate(sizes) if random.random() < 0.5}
    resources = []
    for k in range(random.integers(1, 4)):
        products = {p: int(random.integers(0, 9)) for p in every if random.random() < 0.6}
        counts = {m: int(random.integers(0, 9)) for m in range(len(sizes)) if random.random() < 0.6}
        resources.append(Resource(f"r{k}", "u", int(random.integers(0, 5)), counts, products))
    fewest, most = [m.allowed[0] for m in masks], [m.size for m in masks]
    limits = {r.name: int(random.integers(r.usage(fewest), r.usage(most) + 1)) for r in resources}
    return Problem(masks, linear, pairs, tuple(resources), limits)


def best_by_trying_all(problem: Problem) -> float:
    choices = [list(itertools.product([False, True], repeat=m.size)) for m in problem.masks]
    best = -np.inf
    for combination in itertools.product(*choices):
        keep = tuple(np.array(c, bool) for c in combination)
        if not violations(problem, keep):
            best = max(best, evaluate(problem, keep)[0])
    return best


def require_valid(seed: int) -> None:
    problem = random_problem(seed)
    if sum(m.size for m in problem.masks) > 11:
        return
    optimum = best_by_trying_all(problem)
    state = State(problem)
    x, prices = ascend(state)
    assert state.objective(x) <= optimum + 1e-9
    random = np.random.default_rng(seed)
    for start in (prices, np.zeros_like(prices), random.exponential(size=len(prices))):
        assert upper_bound(state, state.objective(x), start) >= optimum - 1e-9 * max(1.0, optimum)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_never_below_the_optimum(seed):
    require_valid(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_never_below_the_optimum_on_thousands(block):
    for seed in range(block * 150, (block + 1) * 150):
        require_valid(seed)


def test_valid_with_binned_counts(monkeypatch):
    """Bins are for large masks; here they are forced on small ones."""
    monkeypatch.setattr(bound, "_BINS", 2)
    for seed in range(40):
        require_valid(seed)


def test_pair_tables_bound_every_choice():
    random = np.random.default_rng(0)
    values = random.exponential(size=(5, 4)) ** 3
    table = bound._pair_table(values, np.arange(6), np.arange(5))
    for rows in itertools.product([0, 1], repeat=5):
        for columns in itertools.product([0, 1], repeat=4):
            x, y = np.array(rows), np.array(columns)
            assert x @ values @ y <= table[x.sum(), y.sum()] + 1e-9


@pytest.mark.parametrize(("name", "largest_gap"), [("resnet20_cifar10", 0.01), ("densenet_fast_40_12_cifar10", 0.005)])
def test_small_gap_on_real_networks(name, largest_gap, shared_file):
    model = keras.models.load_model(shared_file(f"models/{name}.keras"), compile=False)
    solution = prune(model, {"macs": 0.5}, min_keep=1).solution
    assert solution.status == "FEASIBLE"
    assert 0 <= solution.gap <= largest_gap
