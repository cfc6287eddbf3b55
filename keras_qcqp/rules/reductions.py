"""`keras.ops` calls that reduce, sort or accumulate along axes.

Along other axes the channels pass. Over the channels an operation is followed where a channel of zeros has no effect (a
sum), or one that can be made up for exactly: a mean over k of n channels is k/n times too large, a maximum over all of
them was at least zero as soon as one of them was zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_qcqp.channels import Adapter, Call, Channels, Frozen, Rule, Spec
from keras_qcqp.keras_graph import rename
from keras_qcqp.layer_plan import LayerPlan
from keras_qcqp.rules.arguments import axes_of, bound, holds_tensors, is_array
from keras_qcqp.rules.elementwise import kept_whole, softmax

After = Callable[[LayerPlan], Adapter | None]
Over = Callable[[Call], After | None] | str
"""What becomes of a reduction over channels: how to make up for dropped ones, or why that cannot be."""


def nothing(call: Call) -> None:
    """A channel of zeros has no effect."""


def shared(call: Call) -> After:
    """A mean over k of n channels, where the others are zero, is k/n times the mean over the k."""

    def correct(plan: LayerPlan) -> Adapter | None:
        kept, size = len(plan.in_index[0]), plan.in_size[0]
        return None if kept == size else lambda x, name: rename(x * (kept / size), name)

    return correct


def against_zero(function: Callable[[Any, Any], Any]) -> Callable[[Call], After]:
    """An extreme over k of n channels, where the others are zero."""

    def correct(plan: LayerPlan) -> Adapter | None:
        dropped = len(plan.in_index[0]) < plan.in_size[0]
        return (lambda x, name: rename(function(x, 0), name)) if dropped else None

    return lambda call: correct


def of_order(call: Call) -> None:
    """Norms of any order from 0 on ignore zeros."""
    order = call.node.config.get("ord")
    if isinstance(order, (int, float)) and order < 0:
        raise Frozen(f"a norm of order {order} over channels is zero where one of them is")


def reduction(over: Over, key: str = "axis") -> Rule:
    """A rule for an operation that drops the axes in configuration entry `key`, or keeps them as 1."""

    def rule(call: Call) -> Spec:
        return reduced(call, call.node.config.get(key), over)

    what = f"kept whole, since {over}" if isinstance(over, str) else "exact, dropped ones count as zero"
    rule.__doc__ = f"Passes channels when it goes over other axes; over channels {what}."
    return rule


def reduced(call: Call, axes: Any, over: Over) -> Spec:
    """Reduces the first input."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    gone = axes_of(axes, rank)
    if 0 in gone:
        raise Frozen(f"{call.node.kind} goes over the batch too; name the other axes")
    ports = range(len(call.node.outputs))
    if x.axis not in gone and len(x):
        shift = 0 if call.node.config.get("keepdims") else sum(a < x.axis for a in gone)
        return Spec(tuple(Channels(x.ids, x.axis - shift) for _ in ports))
    if call.is_fixed(x):
        return Spec(tuple(call.fixed(port) for port in ports))
    if isinstance(over, str):
        raise Frozen(f"{call.node.kind} over channels: {over}")
    return Spec((call.fixed(),), zeroed=(0,), after=over(call))


def average(call: Call) -> Spec:
    """ops.average; its weights, if any, belong to another axis."""
    weights, rank = bound(call)["weights"], len(call.node.inputs[0].shape)
    if weights is None:
        return reduced(call, call.node.config["axis"], shared)
    if holds_tensors(weights) or call.inputs[0].axis in axes_of(call.node.config["axis"], rank):
        raise Frozen("an average with weights over channels, or with weights that the network computes")
    if len(getattr(weights, "shape", ())) > 1:
        raise Frozen("an average with one weight for each channel and position; give one for each position")
    return reduced(call, call.node.config["axis"], "")


def quantile(call: Call) -> Spec:
    """One quantile; several would be a new first axis."""
    if holds_tensors(bound(call)["q"]) or is_array(bound(call)["q"]):
        raise Frozen(f"{call.node.kind} at several places; ask for them one by one")
    return reduced(call, call.node.config["axis"], _SPREAD)


def along(reason: str, key: str = "axis") -> Rule:
    """A rule for an operation that looks along one axis, whose size stays; along the channels all are kept."""

    def rule(call: Call) -> Spec:
        x, rank = call.inputs[0], len(call.node.inputs[0].shape)
        for other in call.inputs[1:]:
            call.freeze(other.ids, f"{call.node.kind} reads this operand whole")
        if x.axis not in axes_of(call.node.config[key], rank):
            return Spec((x,) * len(call.node.outputs))
        if call.node.config[key] is None:
            raise Frozen(f"{call.node.kind} without an axis goes over the batch too")
        return kept_whole(call, f"{call.node.kind} over channels: {reason}")

    rule.__doc__ = f"Passes channels along other axes; along channels kept whole, since {reason}."
    return rule


def normalize(call: Call) -> Spec:
    """ops.normalize divides by a norm, to which zeros add nothing."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    axes = axes_of(call.node.config["axis"], rank)
    return Spec((x,), zeroed=(0,)) if x.axis in axes and not call.is_fixed(x) else Spec((x,))


def shrinking(call: Call) -> Spec:
    """Operations that change the size of one axis other than the channels': ops.diff, ops.top_k."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    if x.axis in axes_of(call.node.config.get("axis", -1), rank):
        raise Frozen(f"{call.node.kind} over channels: which of them it returns depends on all")
    return Spec((x,) * len(call.node.outputs))


def glu(call: Call) -> Spec:
    """ops.glu; along the channels, channel j of the first half goes with channel j of the second."""
    x, rank = call.inputs[0], len(call.node.inputs[0].shape)
    if x.axis not in axes_of(call.node.config["axis"], rank):
        return Spec((x,))
    half = len(x) // 2
    call.tie(x.ids[:half], x.ids[half:])
    return Spec((Channels(x.ids[:half], x.axis),))


def last_axes(number: int) -> Rule:
    """A rule for an operation that works on its last axes alone, whatever lies along the axes before them."""

    def rule(call: Call) -> Spec:
        first = call.inputs[0]
        for x, tensor in zip(call.inputs, call.node.inputs, strict=True):
            if x.axis >= len(tensor.shape) - number:
                raise Frozen(f"{call.node.kind} works along axis {x.axis}, which carries the channels")
            if x.axis != first.axis:
                raise Frozen(f"channels along axis {x.axis} meet channels along axis {first.axis}")
            call.tie(first.ids, x.ids)
        return Spec((first,) * len(call.node.outputs))

    rule.__doc__ = f"Passes channels that lie before its last {number} axes; otherwise frozen."
    return rule


def rms_norm(call: Call) -> Spec:
    """ops.rms_normalization along other axes; over channels its epsilon and scale could not be made up for."""
    x, rank, scale = call.inputs[0], len(call.node.inputs[0].shape), bound(call)["scale"]
    axes = axes_of(call.node.config["axis"], rank)
    if len(call.inputs) > 1 or is_array(scale):
        raise Frozen("an RMS norm with a scale that is no weight; use keras.layers.RMSNormalization")
    if x.axis not in axes or call.is_fixed(x):
        return Spec((x,))
    raise Frozen("an RMS norm over channels as an operation; use keras.layers.RMSNormalization")


_SPREAD = "zeros would change it, and by how much depends on the values"
_POSITION = "the result is the number of a channel"
_ORDER = "every result depends on the channels before it"
_NAN = "how many channels count depends on the values"
_EXTREMES = {"Max": keras.ops.maximum, "Amax": keras.ops.maximum, "Min": keras.ops.minimum, "Amin": keras.ops.minimum}

RULES: dict[str, Rule] = {
    **dict.fromkeys(["Sum", "Nansum", "Any", "CountNonzero"], reduction(nothing)),
    **{name: reduction(against_zero(function)) for name, function in _EXTREMES.items()},
    "Mean": reduction(shared),
    "Norm": reduction(of_order),
    **dict.fromkeys("Median Nanmedian Nanstd Nanvar Ptp Std Trapezoid Var".split(), reduction(_SPREAD)),
    **dict.fromkeys(["Nanmax", "Nanmean", "Nanmin"], reduction(_NAN)),
    **dict.fromkeys(["All", "Nanprod", "Prod"], reduction("one channel of zeros decides it")),
    "Logsumexp": reduction("a channel of zeros counts as one"),
    "Moments": reduction(_SPREAD, "axes"),
    **dict.fromkeys(["Argmax", "Argmin", "Nanargmax", "Nanargmin"], reduction(_POSITION)),
    "Average": average,
    **dict.fromkeys(["Nanpercentile", "Nanquantile", "Percentile", "Quantile"], quantile),
    **dict.fromkeys("Cumprod Cumsum Nancumprod Nancumsum".split(), along(_ORDER)),
    **dict.fromkeys(["Argpartition", "Argsort", "Sort"], along("their order depends on all")),
    **dict.fromkeys(["LogSoftmax", "Softmax", "Sparsemax"], softmax),
    "Normalize": normalize,
    **dict.fromkeys(["Diff", "TopK"], shrinking),
    "Glu": glu,
    "RMSNorm": rms_norm,
    "LayerNorm": along("a layer norm subtracts the mean of all; use keras.layers.LayerNormalization"),
    **dict.fromkeys("ExtractSequences RFFT STFT ViewAsComplex FFT IRFFT".split(), last_axes(1)),
    **dict.fromkeys("Cholesky CholeskyInverse Det Eig Eigh FFT2 IFFT2 ISTFT Inv Logdet".split(), last_axes(2)),
    **dict.fromkeys("LuFactor MatrixRank Pinv Qr SVD Slogdet Tril Triu".split(), last_axes(2)),  # Tril: by places there
}
