"""What one layer keeps."""

from __future__ import annotations

import dataclasses

import numpy as np

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What one layer keeps.

    Attributes:
        kind: class name of the layer.
        in_size, out_size: channels of each input and output tensor before.
        in_index, out_index: for each tensor the channels that stay, in their new order; positions in the tensor as it
            was, so behind a Flatten they count height x width x channels. All tensors that hold the same coupled
            channels must hold them in the same order.
        hidden_size, hidden_index: the same for widths inside the layer, such as the heads of an attention.
    """

    kind: str
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    in_index: tuple[Index, ...]
    out_index: tuple[Index, ...]
    hidden_size: tuple[int, ...] = ()
    hidden_index: tuple[Index, ...] = ()

    def side(self, name: str, port: int) -> tuple[np.ndarray, int]:
        """What stays of an input ("in"), an output ("out") or a hidden width ("hidden"), and its size before."""
        sides = {
            "in": (self.in_index, self.in_size),
            "out": (self.out_index, self.out_size),
            "hidden": (self.hidden_index, self.hidden_size),
        }
        index, size = sides[name]
        return np.asarray(index[port], np.int64), size[port]
