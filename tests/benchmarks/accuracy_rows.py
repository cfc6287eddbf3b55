"""Ways to choose channels, and what becomes of them: the rows of tests/benchmarks/accuracy.py."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_qcqp import keras_graph
from keras_qcqp.build import build_problem
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.graph import read
from keras_qcqp.importance import CRITERIA
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score
from keras_qcqp.limits.budget import Budget
from keras_qcqp.limits.widths import Widths
from keras_qcqp.problem import Keep, Problem
from keras_qcqp.samples import Samples
from keras_qcqp.solvers import solve
from tests.benchmarks import selectors

FEWEST = Widths(min_keep=2)
"""Nobody leaves fewer than two channels, so that criteria differ and not their guards."""

RECOVERIES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "bias": ("bias",),
    "batch_norm": ("batch_norm",),
    "least_squares": ("least_squares",),
}


@dataclasses.dataclass
class Subject:
    """A network, its examples, and what was computed of it."""

    name: str
    model: keras.Model
    samples: Samples
    seed: int
    peers: Path | None

    @functools.cached_property
    def coupling(self) -> Coupling:
        return couple(read(self.model))

    @functools.cache  # noqa: B019 (lives as long as the process)
    def scores(self, criterion: str) -> list[Score]:
        """Of a criterion of the package."""
        weights = keras_graph.weight_values(self.model)
        evidence = Evidence(self.coupling, weights, self.model, self.samples, seed=self.seed)
        return CRITERIA[criterion](evidence)

    def problem(self, criterion: str, fraction: float) -> Problem:
        """That of a MAC budget."""
        return build_problem(self.coupling, self.scores(criterion), Budget.of({"macs": fraction}), FEWEST)[0]

    def channel_scores(self, kind: str) -> Sequence[np.ndarray]:
        """Of the baselines: one number for each channel, from weights."""
        return selectors.channel_scores(self.coupling, keras_graph.weight_values(self.model), kind)

    __hash__ = object.__hash__


Selection = Callable[[Subject, float], Keep]


def _exact(criterion: str) -> Selection:
    return lambda subject, fraction: solve(subject.problem(criterion, fraction), 10.0, subject.seed, 2).keep


def _greedy(criterion: str) -> Selection:
    return lambda subject, fraction: selectors.greedy(subject.problem(criterion, fraction))


def _uniform(kind: str) -> Selection:
    return lambda subject, fraction: selectors.uniform(
        subject.problem("magnitude", fraction), subject.channel_scores(kind)
    )


def _global(kind: str) -> Selection:
    return lambda subject, fraction: selectors.global_(
        subject.problem("magnitude", fraction), subject.channel_scores(kind)
    )


def _random(subject: Subject, fraction: float) -> Keep:
    return selectors.random_(subject.problem("magnitude", fraction), subject.seed)


def _peer(criterion: str) -> Selection:
    def selection(subject: Subject, fraction: float) -> Keep:
        from tests.benchmarks.peer_selection import peer_keep

        assert subject.peers is not None
        path = subject.peers / f"{subject.name}_{criterion}_{round(100 * fraction)}.json"
        return peer_keep(subject.coupling, json.loads(path.read_text())["kept"])

    return selection


SELECTIONS: Mapping[str, Selection] = {
    **{f"{criterion}, exact": _exact(criterion) for criterion in CRITERIA if criterion != "random"},
    "reconstruction, greedy": _greedy("reconstruction"),
    "fisher, greedy": _greedy("fisher"),
    "L1, uniform": _uniform("l1"),
    "L1, global": _global("l1"),
    "FPGM, uniform": _uniform("fpgm"),
    "random, uniform": _random,
    **{
        f"Torch-Pruning {criterion}": _peer(criterion)
        for criterion in ("group_l1", "group_l2", "group_taylor", "stepped_taylor", "group_hessian", "fpgm")
    },
}
"""Importance and solver -> selection of a MAC budget."""


def available(name: str, subject: Subject) -> bool:
    """Whether a selection can be made of this network: those of the peer were computed by its own process."""
    if not name.startswith("Torch-Pruning"):
        return True
    criterion = name.removeprefix("Torch-Pruning ")
    return subject.peers is not None and any(subject.peers.glob(f"{subject.name}_{criterion}_*.json"))
