"""States the program of the paper on a CIFAR ResNet from plain arrays, and solves it. No Keras unless weights are read.

Examples:
  python examples/paper_instance.py                                       # ResNet-20, random weights, 46 % of the MACs
  python examples/paper_instance.py --depth=56 --fraction=0.3 --seed=1
  python examples/paper_instance.py --weights=resnet20_cifar10_padA.keras  # convolutions of a trained network, in order
  python examples/paper_instance.py --output=problem.npz                  # keras_qcqp.problem_io.load reads it

The paper is Jeong et al., "Optimal channel selection with discrete QCQP" (AISTATS 2022). Every node l (0 is the image,
l the output of convolution l) has two binary vectors: u^l, the channels that the convolution produces, and v^l, those
that the next one consumes. Convolution l reads v^(l-1) and writes u^l. Both are one unless an addition ends at l.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import sys
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from absl import app, flags

import keras_qcqp
from keras_qcqp import Mask, Need, Pair, Problem, Resource, model_io, problem_io

_DEPTH = flags.DEFINE_integer("depth", 20, "Layers of the random ResNet, 6 n + 2.", 8)
_FRACTION = flags.DEFINE_float("fraction", 0.46, "Share of the MACs to keep.", 0.0, 1.0)
_WEIGHTS = flags.DEFINE_string("weights", None, "A .keras file of a CIFAR ResNet with option-A shortcuts.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random weights and of the search.", 0)
_TIME_LIMIT = flags.DEFINE_float("time_limit_s", 60.0, "As for keras_qcqp.solve.", 0.0)
_OUTPUT = flags.DEFINE_string("output", None, "Where to save the problem (.npz).")


@dataclasses.dataclass(frozen=True)
class Addition:
    """Channel j of node `source` is added to channel `offset + j` of node `target`; the others get zeros.

    The paper's code has offset 0; where the zeros are split between both ends it is half the difference of the widths.
    """

    source: int
    target: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Network:
    """All that the program sees of a chain of convolutions 1..L with additions.

    Attributes:
        importance: float[C_out, C_in] of each convolution.
        pair_macs: multiply-accumulates of one channel pair of each: taps x output positions.
        dense_macs: those of the classifier, which is never pruned but counts.
    """

    importance: Sequence[np.ndarray]
    pair_macs: Sequence[int]
    additions: Sequence[Addition]
    dense_macs: int = 0

    @property
    def conv_macs(self) -> int:
        """Multiply-accumulates of all convolutions."""
        return sum(c * w.shape[0] * w.shape[1] for c, w in zip(self.pair_macs, self.importance, strict=True))


def paper_problem(network: Network, fraction: float) -> Problem:
    """The paper's program with "macs" limited to a fraction of convolutions and classifier together.

    Masks are "image", "u1", "u2", ..., and right behind u of the target of an addition its v. Where no addition ends v
    is u, hence no mask of its own. Nor has the last node one: nothing prunable consumes it, so it is in no importance
    and no cost, and any u <= v <= u + v_s will do, u itself for one. Leaving it out changes no optimum.

    Raises:
        ProblemError: arrays that do not fit together, or additions that do not point forward to different nodes.
    """
    last = len(network.importance)
    into = {a.target: a for a in network.additions}
    if len(into) < len(network.additions) or any(not 0 < a.source < a.target <= last for a in network.additions):
        raise keras_qcqp.ProblemError(
            f"Additions must lead from a node >= 1 to a later one <= {last}, one to each; got {network.additions}."
        )
    image = network.importance[0].shape[1]
    masks = [Mask("image", image, (image,))]
    u, v, needs, pairs = [0], [0], [], []
    for node, values in enumerate(network.importance, start=1):
        u.append(len(masks))
        masks.append(Mask.of(f"u{node}", len(values)))
        pairs.append(Pair(v[node - 1], u[node], np.ascontiguousarray(values.T)))
        v.append(u[node])
        if node in into and node < last:
            v[node] = len(masks)
            masks.append(Mask.of(f"v{node}", len(values)))
            needs += union_needs(into[node], u[node], v[node], v[into[node].source], masks)
    costs = {(pair.a, pair.b): int(c) for pair, c in zip(pairs, network.pair_macs, strict=True)}
    macs = Resource("macs", "MACs", 0, {}, costs)
    return Problem(tuple(masks), {}, tuple(pairs), (macs,), {"macs": mac_limit(network, fraction)}, tuple(needs))


def union_needs(addition: Addition, u: int, v: int, v_source: int, masks: Sequence[Mask]) -> list[Need]:
    """u <= v <= u + v_source where the shortcut lands, u <= v <= u where it brings zeros; all are indices of masks."""
    everything = np.arange(masks[u].size)
    source = np.arange(masks[v_source].size)
    landed = addition.offset + source
    rest = np.setdiff1d(everything, landed)
    needs = [
        Need(u, everything, ((v, everything),)),
        Need(v, landed, ((u, landed), (v_source, source))),
    ]
    return needs + ([Need(v, rest, ((u, rest),))] if len(rest) else [])


def mac_limit(network: Network, fraction: float) -> int:
    """`fraction * total - (total - convolutions)` in exact integers: the classifier is charged in full."""
    total = network.conv_macs + network.dense_macs
    return math.floor(Fraction(str(fraction)) * total) - network.dense_macs


def importance(kernel: np.ndarray) -> np.ndarray:
    """The paper's, float64[C_out, C_in], of a kernel [3, 3, C_in, C_out]: the sum of |W| over the taps, of norm one."""
    v = np.abs(kernel.astype(np.float64)).sum(axis=(0, 1)).T
    return v / max(float(np.linalg.norm(v)), np.finfo(float).tiny)  # a kernel of zeros stays zero


def cifar_resnet(kernels: Sequence[np.ndarray], split_zeros: bool = True) -> Network:
    """A CIFAR ResNet by its 3 x 3 kernels [3, 3, C_in, C_out] in order: stem, then two for each block.

    Args:
        split_zeros: whether a shortcut that widens puts its zeros at both ends (usual), or all at the end (the paper's
            code). Trained weights fit only one of them.
    """
    widths = [k.shape[3] for k in kernels]
    image = 32 * 32
    positions = [image * widths[0] ** 2 // w**2 for w in widths]  # half the height and width, twice the channels
    additions = []
    for target in range(3, len(kernels) + 1, 2):
        wider = widths[target - 1] - widths[target - 3]
        additions.append(Addition(target - 2, target, wider // 2 if split_zeros else 0))
    costs = [9 * p for p in positions]
    return Network([importance(k) for k in kernels], costs, additions, dense_macs=10 * widths[-1])


def random_kernels(depth: int, seed: int = 0) -> list[np.ndarray]:
    """Kaiming-normal kernels of a CIFAR ResNet with `depth = 6 n + 2` layers.

    Raises:
        ProblemError: another depth.
    """
    blocks, left = divmod(depth - 2, 6)
    if left or blocks < 1:
        raise keras_qcqp.ProblemError(f"A CIFAR ResNet has 6 n + 2 layers (8, 14, 20, ...), got {depth}.")
    widths = [3, 16] + [w for w in (16, 32, 64) for _ in range(2 * blocks)]
    random = np.random.default_rng(seed)
    return [random.normal(0, np.sqrt(2 / (9 * a)), (3, 3, a, b)) for a, b in itertools.pairwise(widths)]


def keras_kernels(path: str) -> list[np.ndarray]:
    """Kernels of all Conv2D layers of a saved Keras model, in its order."""
    model = model_io.load_model(path)
    return [layer.get_weights()[0] for layer in model.layers if type(layer).__name__ == "Conv2D"]


def main(argv: list[str]) -> int:
    """States the instance, solves it and says how good the answer is."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    logging.getLogger("keras_qcqp").propagate = False  # `_tell` says the same
    try:
        kernels = keras_kernels(_WEIGHTS.value) if _WEIGHTS.value else random_kernels(_DEPTH.value, _SEED.value)
        problem = paper_problem(cifar_resnet(kernels), _FRACTION.value)
        if _OUTPUT.value:
            problem_io.save(problem, _OUTPUT.value)
        print(problem)
        print(f"  importance of all channels: {keras_qcqp.evaluate(problem, problem.everything())[0]:.2f}")
        solution = keras_qcqp.solve(problem, _TIME_LIMIT.value, _SEED.value, progress=_tell)
    except keras_qcqp.QcqpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(solution)
    return 0


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
