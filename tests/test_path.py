"""Budget sweeps: monotone, certified, and no worse than one solve after another."""

from __future__ import annotations

import itertools

import cases
import pytest
from test_solvers import union_chain

from keras_qcqp import BudgetError, InfeasibleError, Problem, solve, solve_path, violations
from keras_qcqp.solvers.ascent import ascend
from keras_qcqp.solvers.state import State

FRACTIONS = [0.9, 0.3, 0.5, 0.7]


@pytest.fixture(scope="module", params=["chain", "two resources", "union"])
def sweep(request):
    problem = {
        "chain": lambda: cases.random_problem(1, [24] * 8),
        "two resources": lambda: cases.random_problem(1, [24] * 8, num_resources=2),
        "union": union_chain,
    }[request.param]()
    return problem, solve_path(problem, FRACTIONS)


def limited(problem: Problem, fraction: float) -> Problem:
    full = [m.size for m in problem.masks]
    limits = {r.name: int(fraction * r.usage(full)) for r in problem.limited}
    return Problem(problem.masks, problem.linear, problem.pairs, problem.resources, limits, problem.needs)


def test_points_come_in_the_order_asked_and_keep_their_budgets(sweep):
    problem, points = sweep
    for fraction, point in zip(FRACTIONS, points, strict=True):
        assert violations(limited(problem, fraction), point.keep) == []
        assert point.objective <= point.bound


def test_front_is_monotone(sweep):
    ordered = [point for _, point in sorted(zip(FRACTIONS, sweep[1], strict=True), key=lambda pair: pair[0])]
    for smaller, larger in itertools.pairwise(ordered):
        assert smaller.objective <= larger.objective
        assert smaller.bound <= larger.bound


def test_points_are_as_good_as_solves_of_their_own(sweep):
    """Within half a per cent of the ascent for that budget alone; bounds hold for what a full solve finds."""
    problem, points = sweep
    for fraction, point in zip(FRACTIONS, points, strict=True):
        alone = State(limited(problem, fraction))
        assert point.objective >= 0.995 * alone.objective(ascend(alone)[0])
    assert points[2].bound >= solve(limited(problem, 0.5)).objective


def test_everything_fits_into_the_whole_budget():
    point = solve_path(cases.random_problem(1, [5, 5]), [1.0])[0]
    assert all(k.all() for k in point.keep)
    assert point.gap == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan"), "half", True])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(BudgetError, match=r"Fractions must lie in \(0, 1\], got "):
        solve_path(cases.random_problem(1, [5, 5]), [0.5, fraction])


def test_fractions_out_of_reach_are_refused():
    with pytest.raises(InfeasibleError, match="smallest reachable value"):
        solve_path(cases.random_problem(1, [5, 5]), [0.5, 0.001])


def test_a_problem_without_limits_is_refused():
    problem = cases.random_problem(1, [5, 5])
    with pytest.raises(BudgetError, match="at least one limited resource"):
        solve_path(Problem(problem.masks, problem.linear, problem.pairs, problem.resources, {}), [0.5])
