"""The problems of the solver benchmark, each by a name, saved by a process of its own so that no other loads Keras.

python -m tests.benchmarks.instances paper/resnet20/0.46 problem.npz
python -m tests.benchmarks.instances ResNet50/union/0.5 problem.npz
python -m tests.benchmarks.instances chain/1e6 problem.npz
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_qcqp import problem_io
from keras_qcqp.problem import Mask, Pair, Problem, Resource
from tests.benchmarks.shared_data import model_path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import paper_instance as paper

APPLICATIONS = ("ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121")
TRAINED = ("mobilenetv2_100_224_imagenet", "mobilenetv1_025_224_imagenet")


def make(name: str) -> Problem:
    """The problem of a name such as those above."""
    first, *rest = name.split("/")
    return MAKERS[first](*rest) if first in MAKERS else keras_problem(first, *rest)


def paper_problem(network: str, fraction: str) -> Problem:
    """The paper's CIFAR instance, of the shared trained weights or, where they are absent, of random ones."""
    path = model_path(f"{network}_cifar10_padA")
    kernels = paper.keras_kernels(str(path)) if path.is_file() else paper.random_kernels(int(network[-2:]))
    return paper.paper_problem(paper.cifar_resnet(kernels), float(fraction))


def keras_problem(network: str, residual: str, fraction: str) -> Problem:
    """What `keras_qcqp.prune(model, {"macs": fraction}, residual=residual)` would solve."""
    from keras_qcqp import build, coupling, graph, importance, keras_graph
    from keras_qcqp.importance.evidence import Evidence
    from keras_qcqp.limits.budget import Budget

    model = keras_model(network)
    coupled = coupling.couple(graph.read(model), residual=residual)
    scores = importance.criterion("magnitude")(Evidence(coupled, keras_graph.weight_values(model)))
    return build.build_problem(coupled, scores, Budget(macs=float(fraction)))[0]


def keras_model(network: str) -> Any:
    """A shared trained network, or one of `keras.applications` with random weights, seed 0."""
    import keras

    if network in TRAINED:
        return keras.models.load_model(model_path(network), compile=False)
    keras.utils.set_random_seed(0)
    return getattr(keras.applications, network)(weights=None)


def chain(pairs: str) -> Problem:
    """So many channel pairs in a chain whose width and depth both grow; 50 % of the MACs."""
    width, depth = _shape(float(pairs), width=25, edges=1)
    random = np.random.default_rng(0)
    masks = tuple(Mask.of(f"m{k}", width) for k in range(depth + 1))
    joined = [(k, k + 1) for k in range(depth)]
    importance = tuple(Pair(a, b, _importance(random, width, width)) for a, b in joined)
    costs = {(a, b): 9 * 4 ** (4 - 4 * a // depth) for a, b in joined}  # maps shrink on the way
    macs = Resource("macs", "MACs", 0, {}, costs)
    return Problem(masks, {}, importance, (macs,), {"macs": macs.usage([width] * (depth + 1)) // 2})


def resnet(pairs: str) -> Problem:
    """So many channel pairs in a CIFAR ResNet, wider and deeper than the paper's; union residuals, 50 % of the MACs."""
    width, blocks = _shape(float(pairs), width=16, edges=2 * (1 + 4 + 16), fewer=2 + 8)
    random = np.random.default_rng(0)
    widths = [3, width] + [w for w in (width, 2 * width, 4 * width) for _ in range(2 * blocks)]
    importance = [_importance(random, b, a) for a, b in itertools.pairwise(widths)]
    costs = [9 * 1024 * width**2 // w**2 for w in widths[1:]]
    additions = [
        paper.Addition(target - 2, target, (widths[target] - widths[target - 2]) // 2)
        for target in range(3, len(widths), 2)
    ]
    return paper.paper_problem(paper.Network(importance, costs, additions, 10 * widths[-1]), 0.5)


MAKERS: Mapping[str, Callable[..., Problem]] = {"paper": paper_problem, "chain": chain, "resnet": resnet}


def _shape(pairs: float, width: int, edges: int, fewer: int = 0) -> tuple[int, int]:
    """Width and depth with `(edges * depth - fewer) * width^2` pairs: `width` at 10^4, 10^0.4 times as wide at 10^5."""
    depth = max(1, round((pairs / (width**2 * (pairs / 1e4) ** 0.8) + fewer) / edges))
    return round((pairs / (edges * depth - fewer)) ** 0.5), depth


def _importance(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Like that of trained kernels: channels differ in strength, the norm is one; float32 to save memory."""
    strength = [random.lognormal(0, 0.3, n).astype(np.float32) for n in (rows, columns)]
    values = np.abs(random.standard_normal((rows, columns), dtype=np.float32)) * np.outer(*strength)
    return values / np.linalg.norm(values)


if __name__ == "__main__":
    problem_io.save(make(sys.argv[1]), sys.argv[2])
