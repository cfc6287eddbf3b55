"""Every solver against known optima, brute force and the oracle; the worker process; determinism and limits."""

from __future__ import annotations

import os

import cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_qcqp.errors import InfeasibleError, QcqpError
from keras_qcqp.problem import Mask, Need, Pair, Problem, Resource, counts_of, evaluate, violations
from keras_qcqp.solvers import solve
from keras_qcqp.solvers.ascent import ascend
from keras_qcqp.solvers.exact import ExactSolver, Limits
from keras_qcqp.solvers.filling import fill
from keras_qcqp.solvers.state import State, counts_array, keep_of
from keras_qcqp.solvers.windows import borderline, num_products, restrict, widen

MEDIUM = [24] * 8  # 7 x 24 x 24 products: far beyond one full CP-SAT model
WITH_SOLVER = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def solver():
    with ExactSolver() as opened:
        yield opened


def smallest(problem: Problem) -> tuple[np.ndarray, ...]:
    """The first channels of every mask, as few as allowed: feasible whenever anything is."""
    return tuple(np.arange(m.size) < m.allowed[0] for m in problem.masks)


def limits(seed: int = 0, deterministic_s: float = 20.0) -> Limits:
    return Limits(deterministic_s, wall_s=60.0, num_workers=2, seed=seed)


@pytest.fixture(scope="module")
def medium():
    """A problem that windows improve but do not prove, and its solution."""
    problem = cases.random_problem(3, MEDIUM, share=0.4)
    return problem, solve(problem, seed=5)


@pytest.mark.parametrize("make", cases.CASES, ids=lambda make: make.__name__)
def test_known_optimum_is_found_and_proven(make):
    case = make()
    solution = solve(case.problem)
    assert solution.status == "OPTIMAL"
    assert solution.objective == pytest.approx(case.optimum, rel=1e-12)
    assert solution.bound == pytest.approx(case.optimum, rel=1e-6, abs=1e-9)
    if case.kept is not None:
        assert tuple(tuple(np.flatnonzero(k).tolist()) for k in solution.keep) == case.kept


@pytest.mark.parametrize("make", cases.CASES, ids=lambda make: make.__name__)
def test_known_optimum_is_that_of_brute_force(make):
    """The cases themselves are right."""
    case = make()
    assert cases.brute_force(case.problem) == pytest.approx(case.optimum, rel=1e-12)
    if case.kept is not None:
        keep = tuple(np.isin(np.arange(m.size), k) for m, k in zip(case.problem.masks, case.kept, strict=True))
        assert violations(case.problem, keep) == []
        assert evaluate(case.problem, keep)[0] == pytest.approx(case.optimum, rel=1e-12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases.small_problems())
def test_solve_equals_brute_force(problem):
    """Small problems are solved to a proven optimum, and the solution says nothing the oracle would not."""
    best = cases.brute_force(problem)
    solution = solve(problem)
    assert violations(problem, solution.keep) == []
    assert evaluate(problem, solution.keep) == (solution.objective, solution.usage)
    assert solution.objective == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert solution.bound >= best * (1 - 1e-9)
    assert solution.status == "OPTIMAL"
    assert solution.gap == pytest.approx(0.0, abs=1e-6)


@WITH_SOLVER
@given(problem=cases.small_problems())
def test_exact_solver_equals_brute_force_from_the_worst_start(solver, problem):
    best = cases.brute_force(problem)
    outcome = solver.solve(problem, smallest(problem), limits())
    assert outcome.proven
    assert violations(problem, outcome.keep) == []
    assert evaluate(problem, outcome.keep)[0] == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert outcome.bound >= best * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(cases.small_problems())
def test_ascent_is_feasible_and_never_better_than_brute_force(problem):
    state = State(problem)
    x = ascend(state)[0]
    assert violations(problem, keep_of(x)) == []
    value = evaluate(problem, keep_of(x))[0]
    assert value <= cases.brute_force(problem) * (1 + 1e-9)
    assert state.objective(x) == pytest.approx(value, rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(cases.small_problems())
def test_fill_leaves_nothing_affordable(problem):
    """Raising any single mask to its next allowed count would break a limit."""
    x = [k.astype(float) for k in smallest(problem)]
    filled = fill(State(problem), x)
    assert violations(problem, keep_of(filled)) == []
    assert_nothing_affordable(problem, keep_of(filled))
    for before, after in zip(x, filled, strict=True):
        assert np.all(after >= before)


def assert_nothing_affordable(problem: Problem, keep: tuple[np.ndarray, ...]) -> None:
    counts = list(counts_of(keep))
    for m, mask in enumerate(problem.masks):
        larger = [k for k in mask.allowed if k > counts[m]]
        if larger:
            more = [*counts[:m], larger[0], *counts[m + 1 :]]
            assert any(r.usage(more) > problem.limits[r.name] for r in problem.limited), mask.name


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_window_and_its_rest_add_up_to_the_whole(data):
    """Objective and usage of a widened selection are those of the window plus the objective of what is fixed."""
    problem = data.draw(cases.small_problems())
    state = State(problem)
    x = ascend(state)[0]
    free = [
        np.array(sorted(data.draw(st.sets(st.integers(0, m.size - 1)))), int) if k in state.free else np.zeros(0, int)
        for k, m in enumerate(problem.masks)
    ]
    window, fixed = restrict(state, x, free)
    keep = tuple(np.array(data.draw(st.lists(st.booleans(), min_size=len(f), max_size=len(f))), bool) for f in free)
    whole = keep_of(widen(x, free, keep))
    inside, usage = evaluate(window, keep)
    objective, whole_usage = evaluate(problem, whole)
    assert fixed + inside == pytest.approx(objective, rel=1e-9, abs=1e-9)
    assert usage == whole_usage
    assert [m.allowed for m in window.masks] == [
        tuple(k for k in range(len(f) + 1) if k + int(v.sum() - v[f].sum()) in m.allowed)
        for m, v, f in zip(problem.masks, x, free, strict=True)
    ]
    assert num_products(state, free) <= sum(p.values.size for p in window.pairs)


@settings(max_examples=100, deadline=None)
@given(cases.small_problems(), st.randoms(use_true_random=False))
def test_state_agrees_with_the_oracle(problem, random):
    """Objective, usage and marginal gains of the solver's own view, on selections that respect fixed masks."""
    state = State(problem)
    x = [
        full if fixed else np.array([float(random.random() < 0.5) for _ in full])
        for full, fixed in zip(state.full(), state.fixed, strict=True)
    ]
    objective, usage = evaluate(problem, keep_of(x))
    assert state.objective(x) == pytest.approx(objective, rel=1e-9, abs=1e-9)
    used = state.costs.usage(counts_array(x)) - state.costs.limits
    assert used.tolist() == [usage[r.name] - problem.limits[r.name] for r in problem.limited]
    for mask in state.free:
        gain = state.gains(x, mask)
        for i in range(len(x[mask])):
            flipped = [v.copy() for v in x]
            flipped[mask][i] = 1 - flipped[mask][i]
            change = evaluate(problem, keep_of(flipped))[0] - objective
            assert gain[i] * (1 - 2 * x[mask][i]) == pytest.approx(change, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("num_resources", [1, 3])
def test_ascent_fills_the_budget_of_a_medium_problem(share, num_resources):
    problem = cases.random_problem(1, MEDIUM, share, num_resources)
    keep = keep_of(ascend(State(problem))[0])
    assert violations(problem, keep) == []
    assert_nothing_affordable(problem, keep)


def test_windows_improve_on_the_ascent_and_leave_nothing_affordable(medium):
    problem, solution = medium
    state = State(problem)
    assert solution.status == "FEASIBLE"
    assert violations(problem, solution.keep) == []
    assert solution.objective > state.objective(ascend(state)[0])
    assert solution.bound >= solution.objective
    assert solution.gap == pytest.approx(solution.bound / solution.objective - 1)
    assert_nothing_affordable(problem, solution.keep)


def test_same_seed_same_masks(medium):
    """Although two CP-SAT workers search at once and nothing is proven."""
    problem, solution = medium
    again = solve(problem, seed=5)
    assert again.seed == 5
    for a, b in zip(solution.keep, again.keep, strict=True):
        assert np.array_equal(a, b)


def test_progress_tells_of_each_step(medium):
    problem, _ = medium
    lines: list[str] = []
    solve(problem, time_limit_s=20, progress=lines.append)
    assert lines[0].startswith("ascent: objective ")
    assert lines[1].startswith("bound: objective ")
    assert lines[2].startswith("restarts: objective ")
    assert lines[3].startswith("window 1: objective ")
    assert all(", bound " in line and ", gap " in line for line in lines)


def test_solution_cannot_be_changed():
    keep = solve(cases.planted_block().problem).keep
    with pytest.raises(ValueError, match="read-only"):
        keep[0][0] = True


@pytest.mark.parametrize("sizes", [[4, 4], MEDIUM])
def test_no_time_at_all_still_gives_a_feasible_selection(sizes):
    problem = cases.random_problem(2, sizes)
    solution = solve(problem, time_limit_s=0)
    assert violations(problem, solution.keep) == []
    assert solution.objective <= solution.bound


def test_borderline_windows_respect_their_size():
    state = State(cases.random_problem(4, MEDIUM))
    x, prices = ascend(state)
    for products in (10, 250, 10**6):
        free = borderline(state, x, prices, np.random.default_rng(0), noise=0.5, products=products)
        assert num_products(state, free) <= products
        assert all(len(f) >= 1 for f in free)


def test_infeasible_is_refused_before_any_search():
    problem = cases.random_problem(0, [3, 3])
    tight = Problem(problem.masks, problem.linear, problem.pairs, problem.resources, {"r0": 1})
    with pytest.raises(InfeasibleError, match="No selection meets the budget. r0: 1 u asked"):
        solve(tight)


def test_no_masks_and_no_limits():
    """Degenerate problems have their degenerate optimum."""
    nothing = solve(Problem((), {}, (), (), {}))
    assert (nothing.status, nothing.keep, nothing.objective, nothing.gap) == ("OPTIMAL", (), 0.0, 0.0)
    unlimited = solve(Problem((Mask.of("a", 3),), {0: np.ones(3)}, (), (cases.resource("r", {0: 1}, {}),), {}))
    assert (unlimited.status, unlimited.objective, unlimited.usage) == ("OPTIMAL", 3.0, {"r": 3})


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"time_limit_s": -1}, "time_limit_s must be a number >= 0, got -1."),
        ({"time_limit_s": float("nan")}, "time_limit_s must be a number >= 0, got nan."),
        ({"time_limit_s": "60"}, "time_limit_s must be a number >= 0, got '60'."),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1."),
        ({"seed": 0.5}, "seed must be a whole number >= 0, got 0.5."),
        ({"num_workers": 0}, "num_workers must be a whole number >= 1, got 0."),
        ({"num_workers": True}, "num_workers must be a whole number >= 1, got True."),
    ],
)
def test_settings_out_of_range_are_refused(setting, text):
    with pytest.raises(QcqpError) as caught:
        solve(cases.planted_block().problem, **setting)
    assert str(caught.value) == text


def test_settings_may_be_numpy_numbers():
    solution = solve(cases.linear_trap().problem, np.float32(30), np.int64(7), np.int32(1))
    assert (solution.status, solution.seed) == ("OPTIMAL", 7)


def test_the_worker_serves_many_problems_and_ends_with_the_block():
    with ExactSolver() as solver:
        for make in (cases.planted_block, cases.linear_trap):
            case = make()
            outcome = solver.solve(case.problem, smallest(case.problem), limits())
            assert evaluate(case.problem, outcome.keep)[0] == case.optimum
        process = solver._process
        assert process.poll() is None
    assert process.returncode == 0


def test_an_exception_in_the_block_leaves_no_worker_behind():
    with pytest.raises(KeyboardInterrupt), ExactSolver() as solver:
        process = solver._process
        raise KeyboardInterrupt
    assert process.returncode is not None


@pytest.mark.parametrize("sizes", [[3, 3], [300, 300]], ids=["small", "larger than a pipe"])
def test_a_worker_that_dies_is_an_error_with_its_status(sizes):
    problem = cases.random_problem(0, sizes)
    with pytest.raises(QcqpError, match=r"^The solver process ended unexpectedly: status -9"), ExactSolver() as solver:
        solver._process.kill()
        solver._process.wait()
        solver.solve(problem, smallest(problem), limits())
    assert solver._process.returncode == -9


def test_a_worker_that_fails_is_quoted():
    """Its last line and its true status reach the user."""
    problem = cases.random_problem(0, [3])
    strange = (np.ones(7, bool),)
    with pytest.raises(QcqpError, match=r"ended unexpectedly: status 1, .*Error"), ExactSolver() as solver:
        solver.solve(problem, strange, limits())


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with (
        pytest.raises(QcqpError, match="The solver process could not be started with '/no/such/python': "),
        ExactSolver(),
    ):
        pass


def test_the_worker_ends_when_its_parent_is_gone(run_python):
    """A parent that dies without a word closes the pipe, and the worker leaves."""
    code = (
        "import os; from keras_qcqp.solvers.exact import ExactSolver; s = ExactSolver().__enter__();"
        "print(s._process.pid, flush=True); os._exit(3)"
    )
    process = run_python("-c", code)
    assert process.returncode == 3
    gone = f"import os, time\nfor _ in range(100):\n  try: os.kill({int(process.stdout)}, 0)\n"
    gone += "  except ProcessLookupError: raise SystemExit(0)\n  time.sleep(0.1)\nraise SystemExit(1)"
    assert run_python("-c", gone).returncode == 0


def test_solve_works_where_tensorflow_is_loaded(run_python):
    """OR-Tools in the same process would end it with a segmentation fault; and it is never imported there."""
    code = """
import sys
import tensorflow
sys.path.insert(0, "tests")
import cases
from keras_qcqp.solvers import solve
print(solve(cases.planted_block().problem).objective, any(m.startswith("ortools") for m in sys.modules))
"""
    process = run_python("-c", code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["60.0", "False"]


def test_solve_works_from_another_directory(tmp_path, run_python):
    """The worker finds the package although only the parent's `sys.path` knows it."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
sys.path[:0] = [{root!r}, {root + "/tests"!r}]
import cases
from keras_qcqp.solvers import solve
print(solve(cases.linear_trap().problem).objective)
"""
    process = run_python("-c", code, PYTHONPATH="")
    assert (process.returncode, process.stdout) == (0, "8.0\n"), process.stderr


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6))
def test_solve_equals_brute_force_with_needs_tables_and_peaks(seed):
    """Everything a problem can have, feasible or not."""
    problem = cases.rich_problem(seed)
    best = cases.brute_force(problem)
    if best == -np.inf:
        with pytest.raises(InfeasibleError):
            solve(problem)
        return
    solution = solve(problem)
    assert violations(problem, solution.keep) == []
    assert solution.objective == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert solution.bound >= best * (1 - 1e-9)
    assert solution.status == "OPTIMAL"


def union_chain(blocks: int = 6, channels: int = 16, min_keep: int = 1, step: int = 1) -> Problem:
    """A residual stage: stem, then blocks of an inner layer and an addition, each with a sum of its own."""
    random = np.random.default_rng(0)
    masks = [Mask.of("stem", channels, min_keep, step)]
    pairs, products, needs, stream = [], {}, [], 0
    every = np.arange(channels)
    for k in range(blocks):
        inner, u, v = (len(masks) + j for j in range(3))
        masks += [Mask.of(f"{name}{k}", channels, min_keep, step) for name in ("inner", "u", "v")]
        for a, b in ((stream, inner), (inner, u)):
            pairs.append(Pair(a, b, random.exponential(size=(channels, channels))))
            products[a, b] = 9
        needs += [Need(u, every, ((v, every),)), Need(v, every, ((u, every), (stream, every)))]
        stream = v
    cost = cases.resource("macs", {stream: 1}, products)
    limit = int(0.4 * cost.usage([channels] * len(masks)))
    weights = {stream: random.exponential(size=channels)}
    return Problem(tuple(masks), weights, tuple(pairs), (cost,), {"macs": limit}, tuple(needs))


@pytest.mark.parametrize(("min_keep", "step", "gap"), [(1, 1, 0.08), (4, 1, 0.08), (4, 4, 0.16)])
def test_union_stage_is_solved_with_a_small_gap_and_leaves_no_channel_affordable(min_keep, step, gap):
    """Certificates are looser on small layers, and where widths come in steps."""
    problem = union_chain(min_keep=min_keep, step=step)
    solution = solve(problem)
    assert violations(problem, solution.keep) == []
    assert solution.gap < gap
    if step == 1:
        assert_no_single_channel_fits(problem, solution.keep)


def assert_no_single_channel_fits(problem: Problem, keep: tuple[np.ndarray, ...]) -> None:
    """No channel can be added, neither alone nor together with one channel that it needs."""
    flat = [(m, i) for m, k in enumerate(keep) for i in np.flatnonzero(~k).tolist()]
    for m, i in flat:
        for other, j in [(m, i), *((a, b) for a, b in flat if b == i)]:
            more = [k.copy() for k in keep]
            more[m][i] = more[other][j] = True
            assert violations(problem, tuple(more)), (m, i, other, j)


def test_union_keeps_more_than_tied():
    """The tied selection is one of the union's."""
    union = union_chain()
    names = [m.name for m in union.masks]
    stream = [m for m, name in enumerate(names) if name[0] in "suv"]
    every = np.arange(16)
    equal = tuple(Need(a, every, ((b, every),)) for a in stream for b in stream if a != b)
    tied = Problem(union.masks, union.linear, union.pairs, union.resources, union.limits, equal)
    assert solve(union).objective > solve(tied).objective * 1.01


def test_interrupted_search_returns_the_best_so_far(medium):
    problem, finished = medium

    def interrupt(line: str) -> None:
        if line.startswith("window 1"):
            raise KeyboardInterrupt

    solution = solve(problem, seed=5, progress=interrupt)
    assert (solution.stopped, finished.stopped) == ("interrupted", "converged")
    assert violations(problem, solution.keep) == []
    assert solution.objective <= finished.objective <= solution.bound


def test_interrupt_before_any_selection_is_passed_on(medium, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_qcqp.solvers.search.ascend", stop)
    with pytest.raises(KeyboardInterrupt):
        solve(medium[0])


def test_time_limit_is_told():
    assert solve(cases.random_problem(3, MEDIUM, share=0.4), time_limit_s=0).stopped == "time limit"


def test_search_is_logged(caplog, medium):
    with caplog.at_level("DEBUG", logger="keras_qcqp"):
        solve(medium[0], time_limit_s=0)
    assert any(r.message.startswith("ascent: objective ") and "gap" in r.message for r in caplog.records)


def test_conflict_is_irreducible():
    """Tables make the smallest counts dear, so arithmetic sees nothing; the exact solver names what clashes."""
    falling = Resource("time", "us", 0, {}, {}, {(0,): np.array([9, 8, 7, 1])})
    rising = cases.resource("size", {0: 1, 1: 1, 2: 0}, {})
    masks = (Mask.of("a", 3), Mask.of("b", 3), Mask.of("c", 3))
    linear = {m: np.ones(3) for m in range(3)}
    problem = Problem(masks, linear, (), (falling, rising), {"time": 6, "size": 3})
    with pytest.raises(InfeasibleError) as caught:
        solve(problem)
    assert str(caught.value) == (
        "No selection meets the budget: time <= 6 us (alone, 1 can be reached) and size <= 3 u (alone, 2 can be "
        "reached) cannot hold together with the width rules of b (at least 1 of 3). Raise a limit, lower min_keep or "
        "width_multiple, or free a frozen layer."
    )


def test_width_rules_that_needs_contradict_are_named():
    every = np.arange(3)
    masks = (Mask("a", 3, (3,)), Mask("b", 3, (1,)), Mask.of("c", 3))
    needs = (Need(0, every, ((1, every),)),)
    problem = Problem(masks, {2: np.ones(3)}, (), (cases.resource("r", {2: 1}, {}),), {"r": 2}, needs)
    with pytest.raises(
        InfeasibleError, match=r"width rules of a \(always 3 of 3\), b \(always 1 of 3\): their channels"
    ):
        solve(problem)
