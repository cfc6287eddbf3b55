"""`keras.ops` calls and operators on symbolic tensors inside a Functional graph, by operation class name.

Here are those that work value by value; the other tables are gathered in `RULES`. What no rule follows is in `FROZEN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Frozen, Out, Rule, Sliced, Spec
from keras_qcqp.graph import Shape
from keras_qcqp.rules import arranging, contractions, image_operations, indexing, joining, reductions, unfollowed
from keras_qcqp.rules.arguments import constants, refuse_arrays
from keras_qcqp.rules.elementwise import unchanged
from keras_qcqp.rules.merging import sum_broadcast, tie_broadcast

Merge = Callable[[Call, Sequence[Shape], Sequence[Channels]], Channels]


def unary(call: Call) -> Spec:
    """A function of one value at a time."""
    refuse_arrays(call)
    return unchanged(call)


def looked_up(call: Call) -> Spec:
    """Each value is held against a constant list, which has nothing to do with channels."""
    if len(call.inputs) > 1 or not call.node.inputs[0].shape == call.node.outputs[0].shape:
        raise Frozen(f"{call.node.kind} in a list that the network computes")
    return unchanged(call)


def elementwise(call: Call) -> Spec:
    """A function of several values at a time, NumPy broadcasting; some may be numbers or constant arrays."""
    return _merged(call, tie_broadcast)


def compare(call: Call) -> Spec:
    """Comparisons and logic, one pair of values at a time; masks of time steps may have no channels at all."""
    return elementwise(call) if any(len(x) for x in call.inputs) else Spec((call.fresh(axis=0),))


def add(call: Call) -> Spec:
    """Addition and subtraction: the sum of two tensors may have channels of its own."""
    return _merged(call, sum_broadcast)


def _merged(call: Call, merge: Merge) -> Spec:
    rank = len(call.node.outputs[0].shape)
    arrays = constants(call)
    shapes = [(1,) * (rank - len(t.shape)) + t.shape for t in call.node.inputs]
    channels = [
        Channels(x.ids, x.axis + rank - len(t.shape)) for x, t in zip(call.inputs, call.node.inputs, strict=True)
    ]
    out = merge(call, shapes, channels)
    if call.is_fixed(out):
        return Spec((out,))
    return Spec((out,), arguments={path: s for path, value in arrays.items() if (s := _sliced(value, out, rank))})


def _sliced(value: Any, out: Channels, rank: int) -> Sliced | None:
    """How a constant array follows the channels of the result; None where it is the same for all of them."""
    shape = np.shape(value)
    place = out.axis - (rank - len(shape))
    if place < 0 or shape[place] == 1:
        return None
    axes: list[Axis | None] = [None] * len(shape)
    axes[place] = Out()
    return Sliced(value, tuple(axes))


_UNARY = """Abs Absolute Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Array BitwiseInvert BitwiseNot Cast Cbrt
    Ceil Celu Clip Conj Conjugate ConvertToTensor Copy Cos Cosh Deg2rad Elu Erf Erfc Erfinv Exp Exp2 Expm1
    Fabs Floor Gelu HardShrink HardSigmoid HardSilu HardTanh I0 Imag Isfinite Isinf Isnan Isneginf Isposinf
    Isreal LeakyRelu Log Log10 Log1p Log2 LogSigmoid LogicalNot Mish NanToNum Negative Rad2deg ReLU Real
    Reciprocal Relu Relu6 Round Rsqrt SaturateCast Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh SoftShrink
    Softplus Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient Tan Tanh TanhShrink
    Threshold Trunc ViewAsReal""".split()
_SEVERAL = """Arctan2 BitwiseAnd BitwiseLeftShift BitwiseOr BitwiseRightShift BitwiseXor Divide DivideNoNan Equal
    FloorDivide Fmax Fmin Fmod Gcd Greater GreaterEqual Heaviside Hypot Isclose Lcm Ldexp LeftShift Less LessEqual
    Logaddexp Logaddexp2 LogicalAnd LogicalOr LogicalXor Maximum Minimum Mod Multiply Nextafter NotEqual Polar Power
    RightShift Select TrueDivide Where""".split()

_COMPARING = "Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalXor".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_SEVERAL, elementwise),
    **dict.fromkeys(_COMPARING, compare),
    **dict.fromkeys(["Add", "Subtract"], add),
    **dict.fromkeys(["Digitize", "IsIn"], looked_up),
    **arranging.RULES,
    **contractions.RULES,
    **image_operations.RULES,
    **indexing.RULES,
    **joining.RULES,
    **reductions.RULES,
}
FROZEN: Mapping[str, str] = unfollowed.FROZEN
