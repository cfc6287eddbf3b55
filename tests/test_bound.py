"""The certificate: never below the optimum, and worth having on real networks."""

from __future__ import annotations

import itertools

import cases
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_qcqp import Mask, Need, Pair, Problem, evaluate, prune
from keras_qcqp.solvers import counting
from keras_qcqp.solvers.ascent import ascend
from keras_qcqp.solvers.bound import upper_bound
from keras_qcqp.solvers.counting import Count
from keras_qcqp.solvers.exact import ExactSolver, Limits
from keras_qcqp.solvers.majorants import Majorant
from keras_qcqp.solvers.relaxation import split
from keras_qcqp.solvers.state import State, keep_of


def require_valid(seed: int) -> None:
    problem = cases.rich_problem(seed)
    optimum = cases.brute_force(problem)
    if optimum == -np.inf:
        return
    state = State(problem)
    x, prices = ascend(state)
    if x is None:
        return
    assert state.objective(x) <= optimum + 1e-9
    random = np.random.default_rng(seed)
    for start in (prices, np.zeros_like(prices), random.exponential(size=len(prices))):
        assert upper_bound(state, x, start) >= optimum - 1e-9 * max(1.0, optimum)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_never_below_the_optimum(seed):
    require_valid(seed)


@pytest.mark.parametrize("seed", range(20))
def test_needs_of_channels_that_are_always_kept(seed):
    """Their multipliers are a constant, to be counted once."""
    random, every = np.random.default_rng(seed), np.arange(4)
    masks = (Mask("kept", 4, (4,)), Mask.of("a", 4, 0), Mask.of("b", 4, 0))
    needs = (Need(0, every, ((1, every), (2, every))),)
    linear = {1: random.random(4), 2: random.random(4)}
    cost = cases.resource("r", {1: 1, 2: 1}, {})
    linear = {m: w * np.array([9.0, 9.0, 1.0, 1.0]) for m, w in linear.items()}
    problem = Problem(masks, linear, (Pair(1, 2, random.random((4, 4)) ** 3),), (cost,), {"r": 4}, needs)
    state = State(problem)
    x, prices = ascend(state)
    assert upper_bound(state, x, prices) >= cases.brute_force(problem) * (1 - 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_never_below_the_optimum_on_thousands(block):
    for seed in range(block * 150, (block + 1) * 150):
        require_valid(seed)


def require_above_proven_optimum(solver: ExactSolver, seed: int) -> None:
    """Problems too large to enumerate: CP-SAT solves the whole, nearly always to a proof, without our bound."""
    problem = cases.random_problem(seed, [4] * 6, 0.2 + 0.1 * (seed % 7), 1 + seed % 3)
    state = State(problem)
    x, prices = ascend(state)
    assert x is not None
    outcome = solver.solve(problem, keep_of(x), Limits(20.0, 60.0, 2, 0))
    assert outcome.keep is not None
    optimum = evaluate(problem, outcome.keep)[0]
    assert state.objective(x) <= optimum * (1 + 1e-9)
    assert upper_bound(state, x, prices) >= optimum * (1 - 1e-9)


def test_never_below_the_optimum_that_cp_sat_proves():
    with ExactSolver() as solver:
        for seed in range(5):
            require_above_proven_optimum(solver, seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_never_below_the_optimum_that_cp_sat_proves_on_hundreds(block):
    with ExactSolver() as solver:
        for seed in range(block * 50, (block + 1) * 50):
            require_above_proven_optimum(solver, seed)


def test_valid_with_binned_counts(monkeypatch):
    """Bins are for large masks; here they are forced on small ones."""
    monkeypatch.setattr(counting, "_SINGLE", 1)
    monkeypatch.setattr(counting, "_FINE", 1)
    for seed in range(40):
        require_valid(seed)


@pytest.mark.parametrize("single", [True, False])
def test_pair_tables_bound_every_choice(single, monkeypatch):
    """Spectral, row-wise and tangent bounds alone and together, with single scores of either sign."""
    if not single:
        monkeypatch.setattr(counting, "_SINGLE", 1)
        monkeypatch.setattr(counting, "_FINE", 1)
    for seed in range(20):
        random = np.random.default_rng(seed)
        values = random.exponential(size=(5, 4)) ** 3
        u, v = random.normal(size=5), random.normal(size=4)
        pair = split(0, 1, values)
        a, b = Count(*counting.bins(np.arange(6), 2)), Count(*counting.bins(np.arange(5), 3))
        majorant = Majorant(pair, u, v, a, b)
        majorant.touch(random.random(5), random.random(4), pair)
        majorant.tighten(3, 2, pair)
        for rows in itertools.product([0, 1], repeat=5):
            for columns in itertools.product([0, 1], repeat=4):
                x, y = np.array(rows), np.array(columns)
                bins = [int(np.searchsorted(c.lower, k, side="right")) - 1 for c, k in ((a, x.sum()), (b, y.sum()))]
                top = majorant.table[bins[0], bins[1]] - pair.mu * a.lower[bins[0]] * b.lower[bins[1]]
                assert x @ values @ y + u @ x + v @ y <= top + 1e-9


@pytest.mark.parametrize(("name", "largest_gap"), [("resnet20_cifar10", 0.01), ("densenet_fast_40_12_cifar10", 0.005)])
def test_small_gap_on_real_networks(name, largest_gap, shared_file):
    model = keras.models.load_model(shared_file(f"models/{name}.keras"), compile=False)
    solution = prune(model, {"macs": 0.5}, widths={"min_keep": 1}).solution
    assert solution.status == "FEASIBLE"
    assert 0 <= solution.gap <= largest_gap
