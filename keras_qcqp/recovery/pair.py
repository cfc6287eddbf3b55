"""The original network and the pruned one, side by side."""

from __future__ import annotations

import dataclasses

from keras_qcqp.execution import Network
from keras_qcqp.graph import Node
from keras_qcqp.plan import Plan


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes:
        kernels: fit kernels; else only constants (bias compensation).
        ridge: pull towards the weights as they are, in units of the mean diagonal of the Gram matrix.
        places: output positions of each example that give a row.
        rounds: how often targets beyond the bounds of a rectifier are set anew.
        batch_size: examples computed at once.
    """

    kernels: bool = True
    ridge: float = 1e-3
    places: int = 32
    rounds: int = 2
    batch_size: int = 64
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pair:
    """The original network and the pruned one, whose layers have the same paths."""

    original: Network
    pruned: Network
    plan: Plan

    def kept(self, node: Node, size: int) -> list[int]:
        """Output channels of a layer that stay, in their new order; `size` is how many there were."""
        plan = self.plan.layers.get(node.layer)
        return list(range(size)) if plan is None else list(plan.out_index[0])
