"""Which channels of which tensors are zero whatever is fed to the network: padding, as far as it can be seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_qcqp.graph import Node
from keras_qcqp.residual.streams import Streams

_FUNCTIONS = frozenset(
    """celu elu gelu hard_shrink hard_silu hard_swish hard_tanh leaky_relu linear mish relu relu6 selu silu soft_shrink
    softsign swish tanh tanh_shrink""".split()
)
_LAYERS = frozenset(
    [f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)]
    + [f"{kind}{n}D" for kind in ("Cropping", "UpSampling", "ZeroPadding", "SpatialDropout") for n in (1, 2, 3)]
    + [f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)]
    + "Dropout ELU Flatten Identity LeakyReLU Permute PReLU Reshape".split()
)
_OPERATIONS = frozenset(
    """Abs Absolute Amax Amin Arcsin Arcsinh Arctan ArraySplit AveragePool Cast Cbrt Ceil Celu
    ConvertToTensor Copy CropImages Cumsum Deg2rad Diff Elu Erf ExpandDims Expm1 Fabs Flip Floor Gelu
    GetItem HardShrink HardSilu HardTanh Hsplit LeakyRelu Log1p MaxPool Mean Median Moveaxis Nansum
    Negative Norm Normalize Pad Prod Rad2deg Rearrange Relu Relu6 Repeat Reshape Roll Rot90 Round
    SaturateCast Selu Sign Silu Sin Sinh Slice SoftShrink Softsign Sort Split Sqrt Square Squeeze Std
    StopGradient Sum Swapaxes Take Tan Tanh TanhShrink Tile Transpose Trunc Unstack Var ZerosLike""".split()
)

_MEETING = frozenset("Add Append Concatenate Hstack Maximum Minimum Stack Subtract".split())
"""Zero where all operands are, if these have the same channels."""


def zero_flags(streams: Streams, born: Mapping[str, tuple[np.ndarray, ...]]) -> dict[int, np.ndarray]:
    """Tensor number -> bool[channels]. Never True where a value could differ from zero; in doubt False.

    Args:
        born: node -> for each output bool[channels], zeros that come into being there.
    """
    flags: dict[int, np.ndarray] = {}
    for node in streams.graph.nodes:
        for port, tensor in enumerate(node.outputs):
            flags[tensor.number] = born[node.name][port] | _handed_on(streams, node, port, flags)
    return flags


def _handed_on(streams: Streams, node: Node, port: int, flags: Mapping[int, np.ndarray]) -> np.ndarray:
    out, given = streams.specs[node.name].outputs[port].ids, [x.ids for x in streams.inputs[node.name]]
    zero = [flags[t.number] for t in node.inputs]
    if node.name in streams.joins:
        return np.logical_and.reduce(zero)
    if given and node.kind == "Concatenate" and len(out) == sum(map(len, given)):
        return np.concatenate(zero)
    if node.kind in _MEETING and len(given) > 1 and all(np.array_equal(out, ids) for ids in given):
        return np.logical_and.reduce(zero)
    if len(given) != 1 or not keeps_zero(node):
        return np.zeros(len(out), bool)
    if np.array_equal(out, given[0]):
        return zero[0]
    return np.isin(out, given[0][zero[0]]) & ~np.isin(out, given[0][~zero[0]])


def keeps_zero(node: Node) -> bool:
    """Whether a call with one input makes zeros of zeros, channel by channel."""
    module, config = node.cls.__module__, node.config
    if module.startswith("keras.src.ops."):
        extreme = node.kind in ("Max", "Min") and config.get("initial") is None
        return extreme or node.kind in _OPERATIONS
    if not module.startswith("keras.src.layers."):
        return False
    if node.kind == "Activation":
        return config["activation"] in _FUNCTIONS
    if node.kind == "ReLU":
        return not config["threshold"]
    return node.kind in _LAYERS
