"""Products of channel counts: what every cost is made of."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_qcqp.graph import Node

_BYTES = {"bfloat16": 2, "bool": 1, "string": 0}


def item_bytes(dtype: str) -> int:
    """Bytes of one value of a Keras dtype."""
    return _BYTES[dtype] if dtype in _BYTES else np.dtype(dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Term:
    """A product: coefficient x the number of live channels along each of `factors` (arrays of channel ids)."""

    node: Node
    coefficient: int
    factors: tuple[np.ndarray, ...]

    def value(self, alive: np.ndarray) -> int:
        """The product when the channels in bool[channels] `alive` are kept."""
        return self.coefficient * math.prod(int(np.count_nonzero(alive[ids])) for ids in self.factors)

    def times(self, number: int) -> Term:
        """The same product with `number` times the coefficient."""
        return dataclasses.replace(self, coefficient=self.coefficient * number)


def unknown_size(node: Node, resource: str) -> str:
    """What to tell the user when a resource depends on a size that only the data will tell."""
    return (
        f"'{resource}' cannot be counted: the output of '{node.name}' has unknown size {node.outputs[0].shape}. "
        "Rebuild the model on a keras.Input with a full shape, or leave this budget out."
    )
