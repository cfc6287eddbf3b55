"""Problems with known optima, each with the reason why that is the optimum; every solver must find them all.

At the end: random problems, and the enumeration that judges a solver on the small ones.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_qcqp.problem import Mask, Need, Pair, Problem, Resource, Step


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, its best objective, and the best selection where it is the only one (kept positions of each mask)."""

    problem: Problem
    optimum: float
    kept: tuple[tuple[int, ...], ...] | None = None


def resource(
    name: str, linear: Mapping[int, int], quadratic: Mapping[tuple[int, int], int], constant: int = 0
) -> Resource:
    """A resource without much ado."""
    return Resource(name, "u", constant, linear, quadratic)


def separable_knapsack() -> Case:
    """One mask, no pairs, unit cost, room for 3.

    The channels are independent and cost the same, so the three largest importances, 9 + 7 + 5, are the best.
    """
    weights = np.array([5.0, 1.0, 9.0, 2.0, 7.0])
    problem = Problem((Mask.of("a", 5),), {0: weights}, (), (resource("r", {0: 1}, {}),), {"r": 3})
    return Case(problem, 21.0, ((0, 2, 4),))


def knapsack_over_masks() -> Case:
    """Two masks whose channels cost 2 and 3, 7 to spend, at least one of each.

    One of each costs 5 and brings 10 + 12; the 2 left pay for one more of the first only: + 6. Two of the second would
    cost 8 > 7 together with the forced one of the first. So 28.
    """
    linear = {0: np.array([10.0, 6.0, 1.0]), 1: np.array([11.0, 12.0])}
    problem = Problem((Mask.of("a", 3), Mask.of("b", 2)), linear, (), (resource("r", {0: 2, 1: 3}, {}),), {"r": 7})
    return Case(problem, 28.0, ((0, 1), (1,)))


def planted_block() -> Case:
    """A 6 x 6 pair of ones with a 3 x 2 block of tens, room for a product of 6 channels.

    No entry exceeds 10 and at most 6 entries fit, so 60 bounds every selection; the block itself reaches it.
    """
    values = np.ones((6, 6))
    values[np.ix_((1, 3, 4), (0, 5))] = 10.0
    problem = Problem(
        (Mask.of("a", 6), Mask.of("b", 6)), {}, (Pair(0, 1, values),), (resource("r", {}, {(0, 1): 1}),), {"r": 6}
    )
    return Case(problem, 60.0, ((1, 3, 4), (0, 5)))


def linear_trap() -> Case:
    """Row sums mislead: the strongest single channels are not the strongest pair.

    Room for one channel of each. The largest entry, 8 at (2, 2), is therefore the optimum, although row 0 and column 0
    have the largest sums (15) and ranking channels by their sums would keep the entry (0, 0) of 5.
    """
    values = np.array([[5.0, 5.0, 5.0], [5.0, 0.0, 0.0], [5.0, 0.0, 8.0]])
    problem = Problem(
        (Mask.of("a", 3), Mask.of("b", 3)), {}, (Pair(0, 1, values),), (resource("r", {0: 1, 1: 1}, {}),), {"r": 2}
    )
    return Case(problem, 8.0, ((2,), (2,)))


def forced_minimum_counts() -> Case:
    """The limit leaves room for the minimum counts and nothing else.

    2 + 3 channels at unit cost are exactly the limit 5, so only the choice within the counts is left: 4 + 3 and
    9 + 8 + 7.
    """
    masks = (Mask.of("a", 4, min_keep=2), Mask.of("b", 5, min_keep=3))
    linear = {0: np.array([1.0, 2.0, 3.0, 4.0]), 1: np.array([9.0, 1.0, 8.0, 1.0, 7.0])}
    problem = Problem(masks, linear, (), (resource("r", {0: 1, 1: 1}, {}),), {"r": 5})
    return Case(problem, 31.0, ((2, 3), (0, 2, 4)))


def two_conflicting_resources() -> Case:
    """Each mask is cheap in one resource and dear in the other, and both bind.

    3a + b <= 8 and a + 3b <= 8 over the counts. (2, 2) costs 8 in both; (3, 1) breaks the first, (1, 3) the second, so
    at most two of each stay: 3 + 2 and 9 + 5. Without the second limit (1, 3) would win with 3 + 18.
    """
    linear = {0: np.array([1.0, 2.0, 3.0]), 1: np.array([4.0, 9.0, 5.0])}
    resources = (resource("r", {0: 3, 1: 1}, {}), resource("s", {0: 1, 1: 3}, {}))
    problem = Problem((Mask.of("a", 3), Mask.of("b", 3)), linear, (), resources, {"r": 8, "s": 8})
    return Case(problem, 19.0, ((1, 2), (1, 2)))


def width_steps() -> Case:
    """Only 4, 8 or all 10 channels may stay; room for 9.

    10 do not fit, 9 and 5..7 are not allowed, so 8 it is: the sum of all but the two least, 55 - 1 - 2.
    """
    weights = np.arange(1.0, 11.0)
    problem = Problem((Mask.of("a", 10, 4, 4),), {0: weights}, (), (resource("r", {0: 1}, {}),), {"r": 9})
    return Case(problem, 52.0, (tuple(range(2, 10)),))


def frozen_neighbour() -> Case:
    """A pair with a mask that is always whole is linear in the other.

    The rows sum to 6, 15 and 3; the product with 3 fixed columns leaves room for 2 rows: 6 + 15.
    """
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [1.0, 1.0, 1.0]])
    masks = (Mask.of("a", 3), Mask("out", 3, (3,)))
    problem = Problem(masks, {}, (Pair(0, 1, values),), (resource("r", {}, {(0, 1): 1}),), {"r": 6})
    return Case(problem, 21.0, ((0, 1), (0, 1, 2)))


def given_count_below_size() -> Case:
    """A single allowed count that is not the whole: how many is given, which ones is still to choose.

    Exactly 2 of 4 must stay, and with them one of `b`. Rows 1 and 3 with column 0 bring 9 + 9; rows 0 and 2 bring
    5 + 5 with either column and 1 + 1 of their own, a mixture 9 + 5 + 1. (In the whole network rows 0 and 2 lead, 11 to
    9: whoever decides before `b` is cut down is wrong.)
    """
    values = np.array([[5.0, 5.0], [9.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    linear = {0: np.array([1.0, 0.0, 1.0, 0.0])}
    masks = (Mask("a", 4, (2,)), Mask.of("b", 2))
    problem = Problem(masks, linear, (Pair(0, 1, values),), (resource("r", {0: 1, 1: 1}, {}),), {"r": 3})
    return Case(problem, 18.0, ((1, 3), (0,)))


def pair_within_one_mask() -> Case:
    """A layer whose input and output are one mask: a clique.

    The four entries among {1, 3}, both of the diagonal included, are 4 each; room for k^2 = 4 means two channels, hence
    at most four entries, each at most 4: 16.
    """
    values = np.ones((4, 4))
    values[np.ix_((1, 3), (1, 3))] = 4.0
    problem = Problem((Mask.of("a", 4),), {}, (Pair(0, 0, values),), (resource("r", {}, {(0, 0): 1}),), {"r": 5})
    return Case(problem, 16.0, ((1, 3),))


def asymmetric_pair_within_one_mask() -> Case:
    """x^T I x counts both triangles and the diagonal once.

    Two of three channels: {0, 1} brings 1 + 1 + (5 + 0) = 7, {0, 2} brings 1 + 1 + (0 + 6) = 8, {1, 2} brings
    1 + 1 + (2 + 2) = 6; one channel brings 1.
    """
    values = np.array([[1.0, 5.0, 0.0], [0.0, 1.0, 2.0], [6.0, 2.0, 1.0]])
    problem = Problem((Mask.of("a", 3),), {}, (Pair(0, 0, values),), (resource("r", {0: 1}, {}),), {"r": 2})
    return Case(problem, 8.0, ((0, 2),))


def nothing_matters() -> Case:
    """All importance is zero, so every feasible selection is optimal with 0."""
    masks = (Mask.of("a", 4), Mask.of("b", 3))
    linear = {0: np.zeros(4)}
    pairs = (Pair(0, 1, np.zeros((4, 3))),)
    return Case(Problem(masks, linear, pairs, (resource("r", {}, {(0, 1): 2}),), {"r": 9}), 0.0)


def budget_met_exactly() -> Case:
    """The full network costs exactly the limit, so nothing goes: importance is not negative."""
    masks = (Mask.of("a", 2), Mask.of("b", 3))
    pairs = (Pair(0, 1, np.full((2, 3), 2.0)),)
    problem = Problem(masks, {}, pairs, (resource("r", {0: 1}, {(0, 1): 5}, constant=7),), {"r": 7 + 2 + 30})
    return Case(problem, 12.0, ((0, 1), (0, 1, 2)))


def last_channel_affordable() -> Case:
    """The limit is one below the full cost, and the channels cost one: exactly the least important one goes."""
    weights = np.array([3.0, 2.0, 0.5, 4.0])
    problem = Problem((Mask.of("a", 4),), {0: weights}, (), (resource("r", {0: 1}, {}, constant=10),), {"r": 13})
    return Case(problem, 9.0, ((0, 1, 3),))


def mask_may_vanish() -> Case:
    """A mask with min_keep 0 goes as a whole.

    4 to spend. One channel of `b` costs all of it and brings 2; all four of `a` cost the same and bring 4 x 0.75 = 3.
    """
    masks = (Mask.of("a", 4, min_keep=0), Mask.of("b", 2, min_keep=0))
    linear = {0: np.full(4, 0.75), 1: np.array([2.0, 1.0])}
    problem = Problem(masks, linear, (), (resource("r", {0: 1, 1: 4}, {}),), {"r": 4})
    return Case(problem, 3.0, ((0, 1, 2, 3), ()))


def the_middle_does_not_decide() -> Case:
    """Linear and pair importance compete, one channel of each mask stays, so there are four selections.

    (a, b) = (0, 0): 10 + 3 + 0 = 13; (0, 1): 10 + 1 + 0 = 11; (1, 0): 3 + 3 + 6 = 12; (1, 1): 3 + 1 + 0 = 4.
    """
    linear = {0: np.array([10.0, 3.0]), 1: np.array([3.0, 1.0])}
    pairs = (Pair(0, 1, np.array([[0.0, 0.0], [6.0, 0.0]])),)
    resources = (resource("r", {0: 1, 1: 1}, {}),)
    problem = Problem((Mask.of("a", 2), Mask.of("b", 2)), linear, pairs, resources, {"r": 2})
    return Case(problem, 13.0, ((0,), (0,)))


def huge_costs() -> Case:
    """Coefficients of the size of a video network's MACs (10^13): integers must not be rounded.

    Two channels cost exactly the limit; one unit less would forbid the second.
    """
    weights = np.array([1.0, 2.0, 4.0])
    cost = 10**13 + 1
    problem = Problem(
        (Mask.of("a", 3),), {0: weights}, (), (resource("r", {0: cost}, {}, constant=1),), {"r": 2 * cost + 1}
    )
    return Case(problem, 6.0, ((1, 2),))


def tiny_importance() -> Case:
    """Importance next to the smallest float: its reciprocal is infinite. The larger of two channels stays."""
    weights = np.array([3e-308, 6e-308])
    problem = Problem((Mask.of("a", 2),), {0: weights}, (), (resource("r", {0: 1}, {}),), {"r": 1})
    return Case(problem, 6e-308, ((1,),))


def union_carried_by_the_shortcut() -> Case:
    """u <= v <= u + s over three channels; v earns most on a channel that only the shortcut can carry cheaply.

    Room for 4 channels over s, u and v. v_0 earns 10 and needs s_0 (3) or u_0 (0): with s_0 13 for two channels. v_1
    earns 6 with s_1 (1): 7 for two more. u_2 earns 8 but needs v_2 (0): 8 for two. So s_0, v_0 and then u_2, v_2: 21.
    """
    masks = tuple(Mask.of(name, 3, 0) for name in "suv")
    linear = {0: np.array([3.0, 1.0, 0.0]), 1: np.array([0.0, 0.0, 8.0]), 2: np.array([10.0, 6.0, 0.0])}
    every = np.arange(3)
    needs = (Need(1, every, ((2, every),)), Need(2, every, ((1, every), (0, every))))
    cost = resource("r", {0: 1, 1: 1, 2: 1}, {})
    return Case(Problem(masks, linear, (), (cost,), {"r": 4}, needs), 21.0, ((0,), (2,), (0, 2)))


def kept_channels_have_needs() -> Case:
    """Two channels that are always kept each need their own channel of a or of b; room for two.

    a_0 and b_0 would bring 5 + 4, but then nothing serves the second: one of a_1 (1), b_1 (2) must be among the two.
    """
    masks = (Mask("kept", 2, (2,)), Mask.of("a", 2, 0), Mask.of("b", 2, 0))
    every = np.arange(2)
    needs = (Need(0, every, ((1, every), (2, every))),)
    linear = {1: np.array([5.0, 1.0]), 2: np.array([4.0, 2.0])}
    return Case(
        Problem(masks, linear, (), (resource("r", {1: 1, 2: 1}, {}),), {"r": 2}, needs), 7.0, ((0, 1), (0,), (1,))
    )


def product_of_nothing() -> Case:
    """No room for a single pair, though each side alone is free: one side goes altogether, the 3 stays."""
    masks = (Mask.of("a", 1, 0), Mask.of("b", 1, 0))
    linear = {0: np.array([3.0]), 1: np.array([2.0])}
    pairs = (Pair(0, 1, np.array([[9.0]])),)
    return Case(Problem(masks, linear, pairs, (resource("r", {}, {(0, 1): 1}),), {"r": 0}), 3.0, ((0,), ()))


def need_without_source() -> Case:
    """A channel that needs what does not exist can never stay: of 1, 2 and 9 the 9 is out."""
    needs = (Need(0, np.array([2]), ()),)
    problem = Problem(
        (Mask.of("a", 3),), {0: np.array([1.0, 2.0, 9.0])}, (), (resource("r", {0: 1}, {}),), {"r": 1}, needs
    )
    return Case(problem, 2.0, ((1,),))


def wider_is_cheaper() -> Case:
    """A staircase with a dip: 3 channels cost 9, 4 cost 5, 2 cost 4. Room for 5, so 4 stay and not 2: 5 + 4 + 3 + 2."""
    table = np.array([0, 2, 4, 9, 5, 9])
    r = Resource("r", "u", 0, {}, {}, {(0,): table})
    return Case(Problem((Mask.of("a", 5),), {0: np.arange(1.0, 6.0)}, (), (r,), {"r": 5}), 14.0, ((1, 2, 3, 4),))


def table_over_two_counts() -> Case:
    """Cost is 1 for equal counts and 5 otherwise, room for 1: the counts must agree, and all 2 + 2 may stay.

    With three channels of `b` there is no equal count, so its least, 1, is dropped: 4 + 3 + 2 + 3.
    """
    table = np.where(np.equal.outer(np.arange(3), np.arange(4)), 1, 5)
    r = Resource("r", "u", 0, {}, {}, {(0, 1): table})
    masks = (Mask.of("a", 2), Mask.of("b", 3))
    linear = {0: np.array([4.0, 3.0]), 1: np.array([1.0, 2.0, 3.0])}
    return Case(Problem(masks, linear, (), (r,), {"r": 1}), 12.0, ((0, 1), (1, 2)))


def peak_of_steps() -> Case:
    """At one moment a and b are alive, at another b and c; at most 5 at once.

    b counts at both, so one channel of it displaces one of a and one of c; its channels earn 3, theirs 2. With one b
    (the least) there is room for 4 and 4: 3 + 8 + 8; each further b gives 3 and takes 4.
    """
    r = Resource("r", "u", 0, {}, {}, {}, (Step("0", 0, {0: 1, 1: 1}), Step("1", 0, {1: 1, 2: 1})))
    masks = tuple(Mask.of(name, 4) for name in "abc")
    linear = {0: np.full(4, 2.0), 1: np.full(4, 3.0), 2: np.full(4, 2.0)}
    return Case(Problem(masks, linear, (), (r,), {"r": 5}), 19.0)


CASES: Sequence[Callable[[], Case]] = (
    union_carried_by_the_shortcut,
    kept_channels_have_needs,
    product_of_nothing,
    need_without_source,
    wider_is_cheaper,
    table_over_two_counts,
    peak_of_steps,
    separable_knapsack,
    knapsack_over_masks,
    planted_block,
    linear_trap,
    forced_minimum_counts,
    two_conflicting_resources,
    width_steps,
    frozen_neighbour,
    given_count_below_size,
    pair_within_one_mask,
    asymmetric_pair_within_one_mask,
    nothing_matters,
    budget_met_exactly,
    last_channel_affordable,
    mask_may_vanish,
    the_middle_does_not_decide,
    huge_costs,
    tiny_importance,
)


def brute_force(problem: Problem) -> float:
    """The best objective of all feasible selections by enumeration; -inf if there is none. For up to 2^20 of them."""
    rows = [np.array(list(itertools.product((0.0, 1.0), repeat=m.size))).reshape(-1, m.size) for m in problem.masks]
    rows = [r[np.isin(r.sum(axis=1), m.allowed)] for r, m in zip(rows, problem.masks, strict=True)]
    grid = np.meshgrid(*(np.arange(len(r)) for r in rows), indexing="ij")
    x = [r[g.ravel()] for r, g in zip(rows, grid, strict=True)]
    objective = np.zeros(x[0].shape[0])
    for m, weights in problem.linear.items():
        objective += x[m] @ weights
    for pair in problem.pairs:
        objective += np.einsum("ni,ij,nj->n", x[pair.a], pair.values, x[pair.b], optimize=True)
    counts = [v.sum(axis=1).astype(np.int64) for v in x]
    for r in problem.limited:
        usage = r.constant + sum(c * counts[m] for m, c in r.linear.items())
        usage = usage + sum(c * counts[a] * counts[b] for (a, b), c in r.quadratic.items())
        usage = usage + sum(table[tuple(counts[m] for m in key)] for key, table in r.tables.items())
        if r.steps:
            zero = np.zeros_like(counts[0])
            steps = [zero + s.constant + sum(c * counts[m] for m, c in s.linear.items()) for s in r.steps]
            usage = usage + np.max(steps, axis=0)
        objective = np.where(usage > problem.limits[r.name], -np.inf, objective)
    for need in problem.needs:
        sources = sum((x[m][:, index] for m, index in need.sources), np.zeros((len(x[0]), len(need.index))))
        objective = np.where(np.any(x[need.mask][:, need.index] > sources, axis=1), -np.inf, objective)
    return float(objective.max())


def random_problem(seed: int, sizes: Sequence[int], share: float = 0.5, num_resources: int = 1) -> Problem:
    """A chain of masks with pairs between neighbours, limits at `share` of the full usage."""
    random = np.random.default_rng(seed)
    masks = tuple(Mask.of(f"m{k}", size) for k, size in enumerate(sizes))
    pairs = tuple(Pair(k, k + 1, random.random((a, b))) for k, (a, b) in enumerate(itertools.pairwise(sizes)))
    resources = tuple(
        resource(
            f"r{k}",
            {m: int(random.integers(1, 50)) for m in range(len(sizes))},
            {(m, m + 1): int(random.integers(1, 90)) for m in range(len(sizes) - 1)},
        )
        for k in range(num_resources)
    )
    limits = {r.name: int(share * r.usage(sizes)) for r in resources}
    return Problem(masks, {0: random.random(sizes[0])}, pairs, resources, limits)


@st.composite
def small_problems(draw: st.DrawFn) -> Problem:
    """Feasible problems small enough for `brute_force`: 1-4 masks, pairs of any kind, 1-3 resources, width rules."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda s: sum(s) <= 14))
    masks = tuple(draw(_masks(f"m{k}", size)) for k, size in enumerate(sizes))
    index = st.integers(0, len(masks) - 1)
    values = st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.0]) | st.floats(0, 10, allow_subnormal=False)
    linear = {m: draw(arrays(float, sizes[m], elements=values)) for m in draw(st.sets(index))}
    keys = draw(st.lists(st.tuples(index, index), max_size=4))
    pairs = tuple(Pair(a, b, draw(arrays(float, (sizes[a], sizes[b]), elements=values))) for a, b in keys)
    cost = st.integers(0, 12)
    resources = []
    for k in range(draw(st.integers(1, 3))):
        costs = draw(st.dictionaries(index, cost, max_size=4))
        products = draw(st.dictionaries(st.tuples(index, index).map(lambda p: (min(p), max(p))), cost, max_size=4))
        resources.append(resource(f"r{k}", costs, products, draw(st.integers(0, 9))))
    least = [m.allowed[0] for m in masks]
    limits = {r.name: draw(st.integers(r.usage(least), max(r.usage(sizes), r.usage(least)))) for r in resources}
    return Problem(masks, linear, pairs, tuple(resources), limits)


def rich_problem(seed: int) -> Problem:
    """A random problem with all that problems can have, feasible or not, small enough for `brute_force`."""
    random = np.random.default_rng(seed)
    sizes = [int(n) for n in random.integers(1, 5, random.integers(1, 5))]
    while sum(sizes) > 11:
        sizes.pop()
    least = [int(random.integers(0, n + 1)) if random.random() < 0.4 else 0 for n in sizes]
    masks = [Mask.of(f"m{k}", n, least[k], int(random.integers(1, 3))) for k, n in enumerate(sizes)]
    every = list(itertools.combinations_with_replacement(range(len(sizes)), 2))
    pairs = tuple(
        Pair(a, b, random.exponential(size=(sizes[a], sizes[b])) ** random.integers(1, 4))
        for a, b in every
        if random.random() < 0.6
    )
    linear = {m: random.exponential(size=n) for m, n in enumerate(sizes) if random.random() < 0.5}
    resources = [_rich_resource(f"r{k}", random, sizes, every) for k in range(random.integers(1, 4))]
    fewest, most = [m.allowed[0] for m in masks], [m.size for m in masks]
    limits = {}
    for r in resources:
        low, high = sorted((r.usage(fewest), r.usage(most)))
        limits[r.name] = int(random.integers(low, high + 1))
    needs = tuple(_need(random, sizes) for _ in range(random.integers(0, 4)))
    return Problem(tuple(masks), linear, pairs, tuple(resources), limits, needs)


def _rich_resource(name: str, random: np.random.Generator, sizes: list[int], every: list[tuple[int, int]]) -> Resource:
    products = {p: int(random.integers(0, 9)) for p in every if random.random() < 0.5}
    counts = {m: int(random.integers(0, 9)) for m in range(len(sizes)) if random.random() < 0.5}
    keys = [(a,) if a == b else (a, b) for a, b in every if random.random() < 0.25]
    tables = {key: random.integers(0, 12, [sizes[m] + 1 for m in key]) for key in keys}
    tables = {key: np.sort(t, axis=0) if random.random() < 0.5 else t for key, t in tables.items()}
    steps = tuple(
        Step(f"s{k}", int(random.integers(0, 4)), {m: int(random.integers(0, 6)) for m in range(len(sizes))})
        for k in range(random.integers(0, 4))
    )
    return Resource(name, "u", int(random.integers(0, 5)), counts, products, tables, steps)


def _need(random: np.random.Generator, sizes: list[int]) -> Need:
    target, links = int(random.integers(len(sizes))), int(random.integers(1, 4))
    sources = random.integers(len(sizes), size=random.choice([0, 1, 1, 2, 2]))
    pick = lambda m: random.integers(sizes[m], size=links)  # noqa: E731
    return Need(target, pick(target), tuple((int(m), pick(m)) for m in sources))


@st.composite
def _masks(draw: st.DrawFn, name: str, size: int) -> Mask:
    by_rule = st.builds(Mask.of, st.just(name), st.just(size), st.integers(0, size), st.integers(1, 3))
    freely = st.sets(st.integers(0, size), min_size=1).map(lambda counts: Mask(name, size, tuple(sorted(counts))))
    return draw(by_rule | freely | st.just(Mask(name, size, (size,))))
