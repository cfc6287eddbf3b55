"""TensorFlow functions called on Keras 2 symbolic tensors, as `keras.ops`: TensorFlow's name -> function.

Functions take what TensorFlow's take, under the same argument names, as far as `keras.ops` can say it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_qcqp.legacy.graph import mapped

Operation = Callable[..., Any]


def supported(symbol: str | None) -> bool:
    return symbol in OPERATIONS


def call_operation(symbol: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls the counterpart of a TensorFlow function; constants become numbers and NumPy arrays."""
    named = {key: mapped(_plain, value) for key, value in kwargs.items() if key != "name"}
    return OPERATIONS[symbol](*mapped(_plain, list(args)), **named)


def _plain(value: Any) -> Any:
    if isinstance(value, keras.KerasTensor) or not hasattr(value, "numpy"):
        return getattr(value, "name", value) if type(value).__name__ == "DType" else value
    value = value.numpy()
    return value.item() if getattr(value, "ndim", 0) == 0 and hasattr(value, "item") else value


def _pointwise(operation: Operation) -> Operation:
    """TensorFlow names operands x, y or a, b; Keras x1, x2."""
    return lambda *args, **kwargs: operation(*args, *(kwargs[key] for key in sorted(kwargs)))


def _reduction(operation: Operation) -> Operation:
    return lambda input_tensor, axis=None, keepdims=False: operation(input_tensor, axis=axis, keepdims=keepdims)


def _getitem(tensor: Any, key: Any) -> Any:
    def part(spec: Any) -> Any:
        return slice(spec["start"], spec["stop"], spec["step"]) if isinstance(spec, Mapping) else spec

    return tensor[tuple(part(spec) for spec in key) if isinstance(key, (list, tuple)) else part(key)]


def _split(value: Any, num_or_size_splits: Any, axis: int = 0, num: int | None = None) -> Any:
    if not isinstance(num_or_size_splits, int):
        sizes = list(num_or_size_splits)
        if min(sizes) < 0:
            raise ValueError("split with a size of -1")
        num_or_size_splits = list(itertools.accumulate(sizes))[:-1]
    return ops.split(value, num_or_size_splits, axis=axis)


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", name: Any = None, constant_values: Any = 0) -> Any:
    value = {"constant_values": constant_values} if mode.lower() == "constant" else {}
    return ops.pad(tensor, [[int(n) for n in pair] for pair in paddings], mode=mode.lower(), **value)


def _squeeze(input: Any, axis: Any = None, name: Any = None, squeeze_dims: Any = None) -> Any:
    return ops.squeeze(input, axis=squeeze_dims if axis is None else axis)


def _transpose(a: Any, perm: Any = None, name: Any = None, conjugate: bool = False) -> Any:
    return ops.transpose(a, axes=None if perm is None else [int(axis) for axis in perm])


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    turned = [ops.swapaxes(x, -1, -2) if turn else x for x, turn in ((a, transpose_a), (b, transpose_b))]
    return ops.matmul(*turned)


def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False) -> Any:
    return ops.image.resize(images, tuple(size), interpolation=method, antialias=antialias, data_format="channels_last")


def _silu(features: Any, beta: float = 1.0) -> Any:
    return ops.silu(features) if beta == 1 else ops.multiply(features, ops.sigmoid(ops.multiply(features, beta)))


def _pool(operation: Operation) -> Operation:
    def pool(input: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC") -> Any:
        if data_format != "NHWC":
            raise ValueError(f"data_format {data_format}")
        size, steps = _per_axis(ksize), _per_axis(strides)
        return operation(input, size, strides=steps, padding=padding.lower(), data_format="channels_last")

    return pool


def _per_axis(value: Any) -> Any:
    return value if isinstance(value, int) else tuple(value[1:-1] if len(value) == 4 else value)


_POINTWISE: dict[str, str] = {
    "__operators__.add": "add", "math.add": "add", "math.subtract": "subtract", "math.multiply": "multiply",
    "math.truediv": "divide", "math.pow": "power",
    "math.maximum": "maximum", "math.minimum": "minimum", "math.negative": "negative", "math.abs": "abs",
    "math.sqrt": "sqrt", "math.rsqrt": "rsqrt", "math.square": "square", "math.exp": "exp", "math.log": "log",
    "math.log1p": "log1p", "math.expm1": "expm1", "math.reciprocal": "reciprocal", "math.sin": "sin",
    "math.cos": "cos", "math.floor": "floor", "math.ceil": "ceil", "math.sign": "sign", "math.erf": "erf",
    "math.tanh": "tanh", "math.sigmoid": "sigmoid", "math.softplus": "softplus", "nn.relu": "relu",
    "nn.relu6": "relu6", "nn.elu": "elu", "nn.selu": "selu",
    "nn.softsign": "softsign", "zeros_like": "zeros_like", "ones_like": "ones_like",
    "math.greater": "greater", "math.less": "less", "math.greater_equal": "greater_equal",
    "math.less_equal": "less_equal", "math.equal": "equal", "math.not_equal": "not_equal",
    "math.logical_and": "logical_and", "math.logical_or": "logical_or", "math.logical_not": "logical_not",
}  # fmt: skip
_REDUCTIONS = ("mean", "sum", "max", "min", "prod", "any", "all")

OPERATIONS: dict[str, Operation] = {
    **{symbol: _pointwise(getattr(ops, name)) for symbol, name in _POINTWISE.items()},
    **{f"math.reduce_{name}": _reduction(getattr(ops, name)) for name in _REDUCTIONS},
    "__operators__.getitem": _getitem,
    "__operators__.ne": _pointwise(ops.not_equal),
    "__operators__.eq": _pointwise(ops.equal),
    "cast": lambda x, dtype: ops.cast(x, dtype),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "compat.v1.pad": _pad,
    "compat.v1.squeeze": _squeeze,
    "compat.v1.transpose": _transpose,
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "identity": lambda input: keras.layers.Identity()(input),
    "image.resize": _resize,
    "linalg.matmul": _matmul,
    "math.add_n": lambda inputs: sum(inputs[1:], start=inputs[0]),
    "math.squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "nn.avg_pool2d": _pool(ops.average_pool),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
    "nn.log_softmax": lambda logits, axis=-1: ops.log_softmax(logits, axis=-1 if axis is None else axis),
    "nn.max_pool2d": _pool(ops.max_pool),
    "nn.silu": _silu,
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=-1 if axis is None else axis),
    "repeat": lambda input, repeats, axis=None: ops.repeat(input, repeats, axis=axis),
    "reshape": lambda tensor, shape: ops.reshape(tensor, [int(size) for size in shape]),
    "split": _split,
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "stop_gradient": lambda input: ops.stop_gradient(input),
    "tile": lambda input, multiples: ops.tile(input, [int(n) for n in multiples]),
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num=num, axis=axis),
}
"""What the symbolic tensors' operators and `tf.*` functions are called inside a Keras 2 graph -> what they become."""
