"""Rankings and the greedy selector of the benchmark: feasible, in the right order, as wide as the budget allows."""

from __future__ import annotations

import cases
import keras
import numpy as np
import pytest
from test_peers import union

from keras_qcqp import coupling, graph, keras_graph
from keras_qcqp.errors import InfeasibleError
from keras_qcqp.problem import Keep, Mask, Pair, Problem, Resource, counts_of, evaluate, violations
from tests.benchmarks import selectors
from tests.benchmarks.add_greedy import RefusedError

SELECTORS = {
    "uniform": lambda p: selectors.uniform(p, lots(p)),
    "global": lambda p: selectors.global_(p, lots(p)),
    "global raw": lambda p: selectors.global_(p, lots(p), normalise=False),
    "random": lambda p: selectors.random_(p, 3),
    "random widths": lambda p: selectors.random_(p, 3, random_widths=True),
    "greedy": selectors.greedy,
}


def lots(problem: Problem) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.random(m.size) for m in problem.masks]


def kept(keep: Keep) -> list[list[int]]:
    return [np.flatnonzero(x).tolist() for x in keep]


def chain(share: float = 0.5, seed: int = 0) -> Problem:
    """Five masks, the ends whole, one with gaps, one that may not stay whole, and a pair of a mask with itself."""
    sizes = [3, 20, 24, 30, 10]
    masks = [Mask("in", 3, (3,)), Mask.of("a", 20, 3), Mask.of("b", 24, 4, 3), Mask("c", 30, tuple(range(2, 28)))]
    masks.append(Mask("out", 10, (10,)))
    random = np.random.default_rng(seed)
    edges = [(0, 1), (1, 2), (2, 2), (2, 3), (3, 4)]
    pairs = tuple(Pair(a, b, random.random((sizes[a], sizes[b]))) for a, b in edges)
    macs = Resource("macs", "MACs", 7, {3: 5}, {edge: int(random.integers(1, 9)) for edge in edges})
    limit = int(share * macs.usage(sizes))
    return Problem(tuple(masks), {1: random.random(20)}, pairs, (macs,), {"macs": limit})


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", SELECTORS)
def test_selections_are_feasible_and_use_what_they_may(name, share):
    problem = chain(share)
    keep = SELECTORS[name](problem)
    assert violations(problem, keep) == []
    full = problem.limited[0].usage([m.allowed[-1] for m in problem.masks])
    used = evaluate(problem, keep)[1]["macs"]
    assert used > 0.8 * min(problem.limits["macs"], full)


@pytest.mark.parametrize("name", SELECTORS)
def test_what_cannot_be_met_or_stated_is_refused(name):
    with pytest.raises(InfeasibleError, match="nothing that fits: macs"):
        SELECTORS[name](chain(0.01))
    with pytest.raises(RefusedError, match="tied residuals"):
        SELECTORS[name](union())


def one_price(limit: int) -> Problem:
    """Masks of 2 and 4 channels, each of which costs 1."""
    masks = (Mask.of("a", 2), Mask.of("b", 4))
    return Problem(masks, {}, (), (cases.resource("r", {0: 1, 1: 1}, {}),), {"r": limit})


def test_uniform_keeps_the_best_of_the_largest_share_that_fits():
    scores = [np.array([1.0, 2.0]), np.array([5.0, 1.0, 4.0, 7.0])]
    assert kept(selectors.uniform(one_price(6), scores)) == [[0, 1], [0, 1, 2, 3]]
    assert kept(selectors.uniform(one_price(5), scores)) == [[1], [0, 2, 3]]  # 3/4: one of 2, three of 4
    assert kept(selectors.uniform(one_price(4), scores)) == [[1], [0, 2, 3]]
    assert kept(selectors.uniform(one_price(3), scores)) == [[1], [0, 3]]


def test_global_ranks_all_channels_in_one_list():
    scores = [np.array([1.0, 2.0]), np.array([10.0, 40.0, 20.0, 30.0])]
    assert kept(selectors.global_(one_price(4), scores, normalise=False)) == [[1], [1, 2, 3]]  # a keeps one, always
    assert kept(selectors.global_(one_price(3), scores, normalise=False)) == [[1], [1, 3]]
    # Means 1.5 and 25: 0.67, 1.33 and 0.4, 1.6, 0.8, 1.2.
    assert kept(selectors.global_(one_price(5), scores)) == [[0, 1], [1, 2, 3]]
    assert kept(selectors.global_(one_price(4), scores)) == [[1], [1, 2, 3]]


def test_random_depends_on_the_seed_alone():
    problem = chain()
    again = [kept(selectors.random_(problem, seed)) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    widths = {counts_of(selectors.random_(problem, seed, random_widths=True)) for seed in range(5)}
    assert len(widths) > 1 == len({counts_of(selectors.random_(problem, seed)) for seed in range(5)})


@pytest.mark.parametrize("seed", range(5))
def test_greedy_knows_what_each_channel_takes_along(seed):
    problem, random = chain(seed=seed), np.random.default_rng(seed)
    losses = selectors._Losses(problem)
    for m in (2, 1, 3, 2):
        losses.drop(m, random.choice(np.flatnonzero(losses.x[m]), 3, replace=False))
    whole, _ = evaluate(problem, tuple(losses.x))
    for m, x in enumerate(losses.x):
        for j in np.flatnonzero(x).tolist():
            x[j] = False
            assert losses.loss[m][j] == pytest.approx(whole - evaluate(problem, tuple(losses.x))[0])
            x[j] = True


def test_greedy_drops_what_loses_least_for_what_it_saves():
    """A channel of b saves three times as much: 3 / 3 goes before 2 / 1, and then everything fits."""
    linear = {0: np.array([2.0, 9.0]), 1: np.array([3.0, 9.0, 9.0])}
    masks = (Mask.of("a", 2), Mask.of("b", 3))
    problem = Problem(masks, linear, (), (cases.resource("r", {0: 1, 1: 3}, {}),), {"r": 10})
    assert kept(selectors.greedy(problem)) == [[0, 1], [1, 2]]


def test_greedy_takes_back_what_fits():
    """The dear channel of b goes last, 6 / 5 after 1 / 1, and makes room for the cheap one of a again."""
    linear = {0: np.array([1.0, 9.0]), 1: np.array([6.0, 90.0])}
    problem = Problem(
        (Mask.of("a", 2), Mask.of("b", 2)), linear, (), (cases.resource("r", {0: 1, 1: 5}, {}),), {"r": 7}
    )
    assert kept(selectors.greedy(problem)) == [[0, 1], [1]]


@pytest.fixture(scope="module")
def coupled():
    """Two convolutions whose outputs are added, and a Dense head; weights and coupling."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 4, 2))
    a, b = (keras.layers.Conv2D(5, 3, padding="same", name=name)(x) for name in "ab")
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([a, b]))
    model = keras.Model(x, keras.layers.Dense(3, name="head")(y))
    return coupling.couple(graph.read(model)), keras_graph.weight_values(model)


@pytest.mark.parametrize("norm", selectors.NORMS)
def test_scores_are_summed_over_coupled_layers(coupled, norm):
    coupled, weights = coupled
    (mask,) = [m for m, c in enumerate(coupled.masks) if not c.frozen]
    filters = [weights[name]["kernel"].reshape(-1, 5).T for name in "ab"]
    by_hand = {
        "l1": lambda w: np.abs(w).sum(1),
        "l2": lambda w: np.sqrt((w**2).sum(1)),
        "fpgm": lambda w: np.array([sum(np.linalg.norm(f - g) for g in w) for f in w]),
    }[norm]
    makers = sum(map(by_hand, filters))
    np.testing.assert_allclose(selectors.channel_scores(coupled, weights, norm)[mask], makers, rtol=1e-5)
    group = selectors.channel_scores(coupled, weights, norm, ("out", "in"))[mask]
    np.testing.assert_allclose(group, makers + by_hand(weights["head"]["kernel"]), rtol=1e-5)
