"""The oracle against a naive triple loop, refusals by their text, and the problem file."""

from __future__ import annotations

import contextlib
import io
import itertools
import json

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qcqp import problem_io
from keras_qcqp.errors import FileError, InfeasibleError, ProblemError
from keras_qcqp.feasibility import require_feasible
from keras_qcqp.problem import (
    Mask,
    Pair,
    Problem,
    Resource,
    Solution,
    counts_of,
    evaluate,
    violations,
)

ONE = Resource("r", "MAC", 0, {0: 1}, {})


def one_mask(**changes) -> Problem:
    """A mask of 3 channels under one resource, with anything replaced."""
    parts = {"masks": (Mask.of("a", 3),), "linear": {}, "pairs": (), "resources": (ONE,), "limits": {"r": 2}}
    return Problem(**{**parts, **changes})


@st.composite
def selections(draw) -> tuple[Problem, tuple[np.ndarray, ...]]:
    """A problem and any selection, feasible or not."""
    problem = draw(cases.small_problems())
    keep = [draw(st.lists(st.booleans(), min_size=m.size, max_size=m.size)) for m in problem.masks]
    return problem, tuple(np.array(k, bool) for k in keep)


@settings(max_examples=100, deadline=None)
@given(selections())
def test_evaluate_equals_a_naive_triple_loop(selection):
    """Importance entry by entry, resources term by term, in plain Python."""
    problem, keep = selection
    objective = 0.0
    for m, weights in problem.linear.items():
        objective += sum(float(w) for w, kept in zip(weights, keep[m], strict=True) if kept)
    for pair in problem.pairs:
        for i, j in itertools.product(range(pair.values.shape[0]), range(pair.values.shape[1])):
            if keep[pair.a][i] and keep[pair.b][j]:
                objective += float(pair.values[i, j])
    counts = [sum(map(int, k)) for k in keep]
    usage = {}
    for r in problem.resources:
        usage[r.name] = r.constant
        for m, c in r.linear.items():
            usage[r.name] += c * counts[m]
        for (a, b), c in r.quadratic.items():
            usage[r.name] += c * counts[a] * counts[b]
    found, found_usage = evaluate(problem, keep)
    assert found == pytest.approx(objective, rel=1e-12, abs=1e-12)
    assert found_usage == usage
    feasible = all(c in m.allowed for c, m in zip(counts, problem.masks, strict=True))
    feasible = feasible and all(usage[name] <= limit for name, limit in problem.limits.items())
    assert (violations(problem, keep) == []) == feasible


def test_usage_is_exact_beyond_64_bits():
    """Python integers, also when the counts are NumPy's."""
    huge = Resource("r", "u", 1, {0: 10**30}, {(0, 0): 10**25})
    assert huge.usage([np.int64(3)]) == 1 + 3 * 10**30 + 9 * 10**25


def test_violations_in_words():
    """Every kind of breach has its sentence; limits are looked at only when the widths are right."""
    problem = one_mask(masks=(Mask.of("a", 3, 2),), limits={"r": 2})
    assert violations(problem, (np.ones(3, bool),)) == ["r: 3 used, limit 2"]
    assert violations(problem, (np.array([True, False, False]),)) == ["mask a: 1 kept, allowed are 2, 3"]
    assert violations(problem, (np.ones(4, bool),)) == ["mask a: 4 channels given, it has 3"]
    assert violations(problem, ()) == ["0 masks given, the problem has 1"]
    assert violations(problem, (np.array([True, False, True]),)) == []


def test_many_allowed_counts_are_abbreviated():
    problem = one_mask(masks=(Mask.of("a", 64, 8, 2),))
    assert violations(problem, (np.zeros(64, bool),)) == ["mask a: 0 kept, allowed are 8, 10, 12, 14, ..., 64"]


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ((5,), (1, 2, 3, 4, 5)),
        ((5, 3), (3, 4, 5)),
        ((10, 4, 4), (4, 8, 10)),
        ((10, 5, 4), (8, 10)),
        ((3, 1, 8), (3,)),
        ((3, 3), (3,)),
        ((2, 0), (0, 1, 2)),
    ],
)
def test_mask_of_lists_the_allowed_counts(arguments, allowed):
    assert Mask.of("a", *arguments).allowed == allowed


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"masks": (Mask("a", 3, ()),)}, "Mask a: allowed counts must ascend within 0..3, got ()."),
        ({"masks": (Mask("a", 3, (2, 1)),)}, "Mask a: allowed counts must ascend within 0..3, got (2, 1)."),
        ({"masks": (Mask("a", 3, (1, 1)),)}, "Mask a: allowed counts must ascend within 0..3, got (1, 1)."),
        ({"masks": (Mask("a", 3, (4,)),)}, "Mask a: allowed counts must ascend within 0..3, got (4,)."),
        ({"masks": (Mask("a", 3, (-1, 2)),)}, "Mask a: allowed counts must ascend within 0..3, got (-1, 2)."),
        ({"linear": {0: np.ones(2)}}, "Importance of a has shape (2,), expected (3,)."),
        ({"pairs": (Pair(0, 0, np.ones((3, 2))),)}, "Importance of a x a has shape (3, 2), expected (3, 3)."),
        (
            {"linear": {0: np.array([1.0, -1.0, 0.0])}},
            "Importance of a has negative or non-finite entries; scores must be >= 0.",
        ),
        (
            {"pairs": (Pair(0, 0, np.full((3, 3), np.nan)),)},
            "Importance of a x a has negative or non-finite entries; scores must be >= 0.",
        ),
        (
            {"linear": {0: np.array(["x", "y", "z"])}},
            "Importance of a has negative or non-finite entries; scores must be >= 0.",
        ),
        ({"linear": {7: np.ones(3)}}, "Masks [7] do not exist; the problem has 1, numbered from 0."),
        ({"pairs": (Pair(-1, 2, np.ones((3, 3))),)}, "Masks [-1, 2] do not exist; the problem has 1, numbered from 0."),
        (
            {"resources": (Resource("r", "u", 0, {1: 1}, {(0, 3): 1}),)},
            "Masks [1, 3] do not exist; the problem has 1, numbered from 0.",
        ),
        ({"resources": (ONE, ONE)}, "Two resources have one name: ['r', 'r']."),
        ({"limits": {"s": 1}}, "Limits for unknown resources ['s']; known: ['r']."),
        (
            {"resources": (Resource("r", "u", 0, {0: -1}, {}),)},
            "Resource r has a negative coefficient; usage must grow with every channel.",
        ),
        (
            {"resources": (Resource("r", "u", -1, {}, {}),)},
            "Resource r has a negative coefficient; usage must grow with every channel.",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, text):
    with pytest.raises(ProblemError) as caught:
        one_mask(**changes)
    assert str(caught.value) == text


def test_products_are_written_in_order():
    masks = (Mask.of("a", 1), Mask.of("b", 1))
    with pytest.raises(ProblemError, match=r"Resource r: write each product \(a, b\) with a <= b\."):
        one_mask(masks=masks, resources=(Resource("r", "u", 0, {}, {(1, 0): 1}),))


def test_infeasible_names_the_smallest_value_and_what_holds_it_up():
    """Each broken limit gets its own sentence, the others are not mentioned."""
    masks = (Mask.of("stem", 8, 4), Mask.of("wide", 100, 50), Mask("head", 10, (10,)))
    resources = (
        Resource("macs", "MAC", 1000, {0: 10}, {(0, 1): 5, (1, 2): 7}),
        Resource("params", "params", 0, {0: 1}, {}),
        Resource("weight_bytes", "B", 0, {}, {(1, 1): 1}),
    )
    limits = {"macs": 3000, "params": 4, "weight_bytes": 2499}
    with pytest.raises(InfeasibleError) as caught:
        require_feasible(Problem(masks, {}, (), resources, limits))
    assert str(caught.value) == (
        "No selection meets the budget. "
        "macs: 3,000 MAC asked, but the smallest reachable value is 5,540 MAC (45.9% of the original), held up by "
        "wide (at least 50 of 100), head (always 10 of 10) and 1,000 MAC that no mask can change. "
        "Raise the limit to at least 5,540, lower min_keep or width_multiple, or free a frozen layer. "
        "weight_bytes: 2,499 B asked, but the smallest reachable value is 2,500 B (25.0% of the original), held up by "
        "wide (at least 50 of 100). "
        "Raise the limit to at least 2,500, lower min_keep or width_multiple, or free a frozen layer."
    )


def test_the_smallest_reachable_value_is_feasible():
    """What the message says to raise the limit to is enough."""
    masks = (Mask.of("a", 8, 4),)
    for limit in (4, 5):
        require_feasible(one_mask(masks=masks, limits={"r": limit}))
    with pytest.raises(InfeasibleError, match="smallest reachable value is 4 MAC"):
        require_feasible(one_mask(masks=masks, limits={"r": 3}))


def test_a_negative_limit_on_nothing_is_infeasible_not_a_division_by_zero():
    problem = one_mask(resources=(Resource("r", "u", 0, {}, {}),), limits={"r": -1})
    with pytest.raises(InfeasibleError, match="held up by nothing: every limit must be at least 0"):
        require_feasible(problem)


def test_texts_of_problem_and_solution():
    problem = one_mask(pairs=(Pair(0, 0, np.ones((3, 3))),), limits={"r": 2})
    assert str(problem) == "Problem: 1 masks, 3 channels, 9 channel pairs\n  r: 3 MAC, limit 2 (66.7%)"
    nothing = one_mask(resources=(Resource("r", "u", 0, {}, {}),), limits={"r": 0})
    assert str(nothing).endswith("r: 0 u, limit 0 (-)")
    solution = Solution((), "OPTIMAL", 1.5, 1.5, 0.0, {"r": 1200}, 0.25, 3)
    assert str(solution) == "OPTIMAL: objective 1.5, bound 1.5, gap 0.00%, r 1,200, 0.2 s, seed 3"


def test_everything_keeps_all_channels():
    assert counts_of(cases.random_problem(0, [3, 4]).everything()) == (3, 4)


def assert_same(a: Problem, b: Problem) -> None:
    """Equal in every field; arrays bit by bit."""
    assert (a.masks, a.resources, dict(a.limits)) == (b.masks, b.resources, dict(b.limits))
    assert list(a.linear) == list(b.linear)
    assert [(p.a, p.b) for p in a.pairs] == [(p.a, p.b) for p in b.pairs]
    values = [(list(p.linear.values()) + [pair.values for pair in p.pairs]) for p in (a, b)]
    for x, y in zip(*values, strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)


@settings(max_examples=40, deadline=None)
@given(cases.small_problems())
def test_bytes_round_trip(problem):
    back = problem_io.from_bytes(problem_io.to_bytes(problem))
    assert_same(Problem(problem.masks, dict(sorted(problem.linear.items())), *_rest(problem)), back)


def _rest(problem: Problem):
    return problem.pairs, problem.resources, problem.limits


def test_file_round_trip_with_numbers_beyond_64_bits(tmp_path):
    problem = one_mask(resources=(Resource("r", "ü", 10**25, {0: 10**20}, {(0, 0): 2}),), limits={"r": 10**26})
    problem_io.save(problem, tmp_path / "p.npz")
    assert_same(problem, problem_io.load(tmp_path / "p.npz"))
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]


def test_numpy_integers_are_written_as_integers():
    resource = Resource("r", "u", np.int64(1), {0: np.int64(2)}, {(0, 0): np.int32(3)})
    back = problem_io.from_bytes(problem_io.to_bytes(one_mask(resources=(resource,), limits={"r": np.int64(9)})))
    assert (back.resources[0].usage([1]), back.limits) == (6, {"r": 9})


def test_a_missing_file_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match=r"Cannot read problem '.*none\.npz': No such file or directory\."):
        problem_io.load(tmp_path / "none.npz")
    with pytest.raises(FileError, match="Is a directory"):
        problem_io.load(tmp_path)


def _npz(header: bytes | None, **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **({} if header is None else {"header": np.frombuffer(header, np.uint8)}), **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "This is not a saved problem: "),
        (b"PK\x03\x04 and nothing more", "This is not a saved problem: "),
        (b"\x80\x04\x95pickle", "This is not a saved problem: "),
        (_npz(None, x=np.ones(2)), "This is not a saved problem: "),
        (_npz(b"not json"), "This is not a saved problem: "),
        (_npz(b"[1]"), "This is not a saved problem: "),
        (_npz(b"{}"), "'keras_qcqp.problem' version 2 expected, got None."),
        (_npz(b'{"format": "keras_qcqp.problem", "version": 3}'), "'keras_qcqp.problem' version 2 expected"),
        (_npz(b'{"format": "keras_qcqp.problem", "version": 2}'), "This is not a saved problem: 'masks'."),
        (_npz(b"[" * 100_000), "This is not a saved problem: "),
    ],
    ids=["empty", "cut zip", "pickle", "no header", "no json", "list", "no format", "newer", "no masks", "deep"],
)
def test_files_that_hold_no_problem_are_refused(data, text):
    with pytest.raises(ProblemError) as caught:
        problem_io.from_bytes(data)
    assert str(caught.value).startswith(text)


def test_pickled_arrays_are_never_run(tmp_path):
    """An object array needs pickle, which would run code from the file."""

    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("trap").write_text, ("ran",))

    np.savez(tmp_path / "evil.npz", header=np.array([Trap()], dtype=object))
    (tmp_path / "trap").unlink(missing_ok=True)
    with pytest.raises(ProblemError, match="allow_pickle=False"):
        problem_io.load(tmp_path / "evil.npz")
    assert not (tmp_path / "trap").exists()


VALID = problem_io.to_bytes(cases.planted_block().problem)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_nothing_but_problem_error(data):
    """Cut off anywhere, or a few bytes changed anywhere: refused, or still a valid problem."""
    damaged = bytearray(VALID)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(VALID) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.one_of(st.just(len(VALID)), st.integers(0, len(VALID))))]
    with contextlib.suppress(ProblemError):
        assert isinstance(problem_io.from_bytes(bytes(damaged)), Problem)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({k: JSON for k in ("masks", "linear", "pairs", "resources", "limits")}))
def test_hostile_headers_raise_nothing_but_problem_error(parts):
    """A well-formed file whose header says anything at all."""
    header = json.dumps({"format": "keras_qcqp.problem", "version": 1, **parts}).encode()
    data = _npz(header, allowed_0=np.array([1, 2]), linear_0=np.ones(2), pair_0=np.ones((2, 2)))
    with contextlib.suppress(ProblemError):
        assert isinstance(problem_io.from_bytes(data), Problem)
