"""`keras.ops` calls and operators on symbolic tensors inside a Functional graph, by operation class name."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Call, Channels, Frozen, Rule, Spec, normal_axis
from keras_qcqp.graph import Shape, TensorRef
from keras_qcqp.rules import indexing, masks
from keras_qcqp.rules.elementwise import softmax, unchanged
from keras_qcqp.rules.merging import join, sum_broadcast, tie_broadcast
from keras_qcqp.rules.shaping import move_axis, reshaped


def unary(call: Call) -> Spec:
    """A function of one value at a time."""
    _refuse_arrays(call)
    return unchanged(call)


def binary(call: Call) -> Spec:
    """A function of two values at a time, NumPy broadcasting; the second may be a number."""
    return Spec((tie_broadcast(call, *_broadcast(call)),))


def compare(call: Call) -> Spec:
    """Comparisons and logic, one pair of values at a time; masks of time steps may have no channels at all."""
    return binary(call) if any(len(x) for x in call.inputs) else Spec((call.fresh(axis=0),))


def add(call: Call) -> Spec:
    """Addition and subtraction of tensors; the second may be a number."""
    return Spec((sum_broadcast(call, *_broadcast(call)),))


def _broadcast(call: Call) -> tuple[list[Shape], list[Channels]]:
    _refuse_arrays(call)
    rank = len(call.node.outputs[0].shape)
    shapes = [(1,) * (rank - len(t.shape)) + t.shape for t in call.node.inputs]
    channels = [
        Channels(x.ids, x.axis + rank - len(t.shape)) for x, t in zip(call.inputs, call.node.inputs, strict=True)
    ]
    return shapes, channels


def concatenate(call: Call) -> Spec:
    """ops.concatenate."""
    return Spec((join(call, call.node.config.get("axis", 0)),))


def reduction(call: Call) -> Spec:
    """Mean, sum, max, min over axes that do not carry the channels."""
    (x,), rank = call.inputs, len(call.node.inputs[0].shape)
    axes = call.node.config.get("axis")
    axes = range(rank) if axes is None else axes if isinstance(axes, (list, tuple)) else [axes]
    gone = sorted(normal_axis(a, rank) for a in axes)
    if x.axis in gone or 0 in gone:
        raise Frozen("reduction over channels or over the batch")
    shift = 0 if call.node.config.get("keepdims") else sum(a < x.axis for a in gone)
    return Spec((Channels(x.ids, x.axis - shift),))


def reshape(call: Call) -> Spec:
    """ops.reshape that keeps, joins or splits whole channels."""
    return Spec(*reshaped(call, "newshape", batch=1))


def expand_dims(call: Call) -> Spec:
    """ops.expand_dims."""
    x, rank = call.inputs[0], len(call.node.outputs[0].shape)
    axes = call.node.config["axis"]
    new = {normal_axis(a, rank) for a in (axes if isinstance(axes, (list, tuple)) else [axes])}
    old = [axis for axis in range(rank) if axis not in new]
    return Spec((Channels(x.ids, old[x.axis]),))


def squeeze(call: Call) -> Spec:
    """ops.squeeze of named axes that do not carry the channels."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    axes = call.node.config.get("axis")
    if axes is None:
        raise Frozen("squeeze without an axis")
    gone = {normal_axis(a, rank) for a in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if x.axis in gone:
        raise Frozen("squeeze of the axis that carries the channels")
    return Spec((Channels(x.ids, x.axis - sum(a < x.axis for a in gone)),))


def transpose(call: Call) -> Spec:
    """ops.transpose."""
    rank = len(call.node.inputs[0].shape)
    axes = call.node.config.get("axes") or range(rank)[::-1]
    order = [normal_axis(a, rank) for a in axes]
    if order[0] != 0:
        raise Frozen("transpose moves the batch axis")
    return Spec((move_axis(call.inputs[0], order),))


def _refuse_arrays(call: Call) -> None:
    """A constant array has a size of its own that nobody slices."""

    def check(value: Any) -> None:
        if not isinstance(value, TensorRef) and np.ndim(value) > 0 and np.size(value) > 1:
            raise Frozen("a constant array is an operand; make it a layer with a weight")

    keras.tree.map_structure(check, call.node.arguments)
    keras.tree.map_structure(check, dict(call.node.config))


_UNARY = """Abs Absolute Cast Celu Ceil Clip Cos Elu Erf Exp Expm1 Floor Gelu HardShrink HardSigmoid HardSilu HardTanh
    Identity LeakyRelu Log Log1p LogSigmoid Negative Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign Silu Sin
    SoftShrink Softplus Softsign SparsePlus Sqrt Square Squareplus Tanh TanhShrink Threshold""".split()
_BINARY = ["Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"]
_COMPARING = "Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalXor LogicalNot".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_COMPARING, compare),
    **dict.fromkeys(["Add", "Subtract"], add),
    **indexing.RULES,
    **masks.OPERATIONS,
    **dict.fromkeys(["Mean", "Sum", "Max", "Min", "Amax", "Amin"], reduction),
    "Concatenate": concatenate,
    "ExpandDims": expand_dims,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Softmax": softmax,
}
