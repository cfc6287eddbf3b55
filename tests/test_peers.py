"""The peers of the benchmark are stated right: feasible, never above the optimum; the greedy one takes what it says."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import cases
import numpy as np
import pytest

from keras_qcqp import problem_io
from keras_qcqp.problem import Mask, Need, Pair, Problem, Resource, counts_of, evaluate, violations
from tests.benchmarks import add_greedy, instances, peers

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"SCIP": "pyscipopt", "SCIP from greedy": "pyscipopt", "CPLEX": "cplex"}
EXACT = ("CP-SAT", "SCIP", "CPLEX")
BELOW_TOLERANCE = "tiny_importance"  # 6e-308 at most
ANSWER_ALL = """
import json, sys
import test_peers
from tests.benchmarks import peers
print(json.dumps({name: peers.run(problem, sys.argv[1], 20.0) for name, problem in test_peers.problems().items()}))
"""


def union(share: float = 0.5, seed: int = 0) -> Problem:
    """Six convolutions of up to four channels with additions 1 -> 3 -> 5 as in the paper; the second widens by one."""
    sizes = {"image": 2, "u1": 2, "u2": 2, "u3": 2, "v3": 2, "u4": 2, "u5": 3, "v5": 3, "u6": 2}
    at = {name: k for k, name in enumerate(sizes)}
    masks = [Mask("image", 2, (2,)), *(Mask.of(name, n) for name, n in sizes.items() if name != "image")]
    random = np.random.default_rng(seed)
    edges = ["image u1", "u1 u2", "u2 u3", "v3 u4", "u4 u5", "v5 u6"]
    joined = [tuple(at[name] for name in edge.split()) for edge in edges]
    pairs = [Pair(a, b, random.random((masks[a].size, masks[b].size))) for a, b in joined]
    costs = Resource("macs", "MACs", 3, {}, {edge: int(random.integers(1, 30)) for edge in joined})
    limit = int(share * costs.usage([m.size for m in masks]))
    two, three, later = np.arange(2), np.arange(3), np.arange(2) + 1
    needs = (
        Need(at["u3"], two, ((at["v3"], two),)),
        Need(at["v3"], two, ((at["u3"], two), (at["u1"], two))),
        Need(at["u5"], three, ((at["v5"], three),)),
        Need(at["v5"], later, ((at["u5"], later), (at["v3"], two))),
        Need(at["v5"], three[:1], ((at["u5"], three[:1]),)),
    )
    return Problem(tuple(masks), {}, tuple(pairs), (costs,), {"macs": limit}, needs)


def problems() -> dict[str, Problem]:
    """By name, all that the peers are tried on."""
    return {make.__name__: make().problem for make in cases.CASES} | {"union": union()}


@functools.cache
def optimum(name: str) -> float:
    known = {make.__name__: make for make in cases.CASES}
    return known[name]().optimum if name in known else cases.brute_force(problems()[name])


@pytest.fixture(scope="module")
def answers(run_python):
    """Name of a peer -> what it says to each problem, from a process without TensorFlow."""

    @functools.cache
    def run(peer: str) -> dict:
        library = LIBRARIES.get(peer)
        if library and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed; the extra 'peers' brings it")
        process = run_python("-c", ANSWER_ALL, peer, PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("name", problems())
@pytest.mark.parametrize("peer", peers.PEERS)
def test_answers_are_feasible_and_not_above_the_optimum(answers, peer, name):
    said, problem = answers(peer)[name], problems()[name]
    if said["keep"] is None:
        assert said["refused"], "these problems are small: no answer is no excuse"
        return
    keep = tuple(np.array(k, bool) for k in said["keep"])
    assert violations(problem, keep) == []
    assert evaluate(problem, keep)[0] <= optimum(name) * (1 + 1e-12)
    assert said["bound"] is None or said["bound"] >= optimum(name) * (1 - 1e-6) - 1e-9


@pytest.mark.parametrize("name", sorted(problems().keys() - {BELOW_TOLERANCE}))
@pytest.mark.parametrize("peer", EXACT)
def test_exact_peers_find_the_optimum(answers, peer, name):
    said = answers(peer)[name]
    if not said["refused"]:
        value, _ = evaluate(problems()[name], tuple(np.array(k, bool) for k in said["keep"]))
        assert value == pytest.approx(optimum(name), rel=1e-6)


def test_only_what_a_peer_cannot_state_is_refused(answers):
    refused = {name: said["refused"] for name, said in answers("add-greedy").items() if said["refused"]}
    assert refused["width_steps"] == "add-greedy knows no widths with gaps"
    assert refused["two_conflicting_resources"] == "add-greedy knows one limit, on products of counts"
    assert "union" not in refused
    products = {name for name, p in problems().items() if not any(r.tables or r.steps for r in p.limited)}
    assert {name for name, said in answers("CP-SAT").items() if not said["refused"]} == products


def closures(live: frozenset, added: frozenset, new: frozenset, links: dict) -> Iterator[frozenset]:
    """Every set of channels that gives the new ones what they need: one source of each, be it live already or not."""
    if not new:
        yield added
        return
    channel = min(new)
    added, new = added | {channel}, new - {channel}
    open_needs = [sources for sources in links.get(channel, ()) if not added & set(sources)]
    for chosen in itertools.product(*open_needs):
        yield from closures(live, added, new | (frozenset(chosen) - live - added), links)


def ways(problem: Problem, x: list[np.ndarray], channel: tuple[int, int]) -> list[tuple[float, int]]:
    """(importance, cost) that each way to switch a channel on adds, judged by the oracle."""
    links: dict = {}
    for target, sources in peers._links(problem):
        links.setdefault(target, []).append(sources)
    live = frozenset((m, int(j)) for m, kept in enumerate(x) for j in np.flatnonzero(kept))
    before, used = evaluate(problem, tuple(x))
    found = []
    for added in closures(live, frozenset(), frozenset({channel}), links):
        wider = [kept.copy() for kept in x]
        for m, j in added:
            wider[m][j] = True
        value, usage = evaluate(problem, tuple(wider))
        found.append((value - before, usage["macs"] - used["macs"]))
    return found


def some_state(problem: Problem, seed: int) -> list[np.ndarray]:
    """A random feasible selection: random u, and v anywhere within its needs."""
    random = np.random.default_rng(seed)
    x = [random.random(m.size) < 0.4 for m in problem.masks]
    x[0][:] = True
    for m in range(len(x)):
        x[m][random.integers(problem.masks[m].size)] |= not x[m].any()
    names = [m.name for m in problem.masks]
    u1, u3, v3, u5, v5 = (names.index(n) for n in "u1 u3 v3 u5 v5".split())
    x[v3] = x[u3] | (x[v3] & x[u1])
    x[v5] = x[u5] | (x[v5] & np.concatenate([[False], x[v3]]))
    return x


@pytest.mark.parametrize("seed", range(20))
def test_greedy_prices_the_best_bundle_of_every_channel(seed):
    problem = union(0.8, seed)
    search = add_greedy._Greedy(problem)
    search.x = some_state(problem, seed)
    search.refresh()
    offered = {}
    for offers in search._offers():
        for j in np.flatnonzero(offers.ratio > -np.inf).tolist():
            bundle = offers.bundle(j)
            offered[bundle[0]] = max(offered.get(bundle[0], 0.0), float(offers.ratio[j]))
    expected = {}
    for m, kept in enumerate(search.x):
        for j in np.flatnonzero(~kept).tolist():
            affordable = [value / cost for value, cost in ways(problem, search.x, (m, j)) if cost <= search.room]
            expected |= {(m, j): max(affordable)} if affordable else {}
    assert offered == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_stops_when_nothing_fits(seed):
    problem = union(0.5, seed)
    keep = add_greedy.add_greedy(problem)
    assert violations(problem, keep) == []
    left = problem.limits["macs"] - problem.limited[0].usage(counts_of(keep))
    off = [(m, j) for m, kept in enumerate(keep) for j in np.flatnonzero(~kept).tolist()]
    assert all(cost > left for channel in off for _, cost in ways(problem, list(keep), channel))


def test_greedy_with_steps_stays_within_the_limit():
    problem = cases.random_problem(1, [30, 40, 30], share=0.4)
    one, many = (add_greedy.add_greedy(problem, step=step) for step in (1, 10))
    assert violations(problem, many) == []
    assert evaluate(problem, many)[0] == pytest.approx(evaluate(problem, one)[0], rel=0.02)


def test_greedy_out_of_time_is_feasible():
    problem = cases.random_problem(1, [30, 40, 30], share=0.4)
    keep = add_greedy.add_greedy(problem, time_limit_s=0.0)
    assert counts_of(keep) == (4, 4, 4)
    assert violations(problem, keep) == []


@pytest.mark.parametrize("pairs", [1e4, 1e5, 1e6])
@pytest.mark.parametrize("kind", ["chain", "resnet"])
def test_growing_instances_have_the_number_of_pairs_in_their_name(kind, pairs):
    problem = instances.make(f"{kind}/{pairs:.0e}")
    assert sum(p.values.size for p in problem.pairs) == pytest.approx(pairs, rel=0.05)
    assert bool(problem.needs) == (kind == "resnet")
    (macs,) = problem.limited
    assert problem.limits["macs"] == pytest.approx(0.5 * macs.usage([m.size for m in problem.masks]), rel=1e-3)
    assert add_greedy._targets(problem) or kind == "chain"


def test_the_benchmark_measures_what_the_oracle_says(run_python, tmp_path):
    problem = cases.random_problem(1, [30, 40, 30], share=0.4)
    problem_io.save(problem, tmp_path / "problem.npz")
    told = tmp_path / "told.json"
    process = run_python("-m", "tests.benchmarks.solve_one", tmp_path / "problem.npz", "2", told)
    assert process.returncode == 0, process.stderr
    row = json.loads(told.read_text())
    assert row["violations"] == [] and row["pairs"] == 2 * 30 * 40
    assert 0 < row["warm"] <= row["objective"] * (1 + 1e-9) <= row["bound"] * (1 + 1e-6)
    assert 0.9 < row["used"] <= 1
    assert row["worker_mib"] > 20 and 20 < row["peak_mib"] < 200  # MiB; neither holds TensorFlow
