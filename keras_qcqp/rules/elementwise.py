"""Layers that leave every channel where it is: activations, noise, scaling, normalisation by stored statistics."""

from __future__ import annotations

from typing import Any

import keras

from keras_qcqp.channels import Call, In, Rule, Spec, normal_axis

ELEMENTWISE_FUNCTIONS = frozenset(
    """celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear log_sigmoid
    mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus swish tanh
    tanh_shrink threshold""".split()
)
ELEMENTWISE_LAYERS = frozenset({"ELU", "LeakyReLU", "ReLU"})


def is_elementwise(activation: Any) -> bool:
    """Whether a serialised activation is a built-in function of one value at a time."""
    if activation is None:
        return True
    if isinstance(activation, dict):
        if activation.get("registered_name") not in (None, "function", activation.get("class_name")):
            return False  # somebody's own function, whatever it is called
        name = activation.get("config") if activation.get("class_name") == "function" else None
        return name in ELEMENTWISE_FUNCTIONS or activation.get("class_name") in ELEMENTWISE_LAYERS
    return activation in ELEMENTWISE_FUNCTIONS


def activation_name(activation: Any) -> Any:
    """How to call a serialised activation."""
    return activation.get("config", activation) if isinstance(activation, dict) else activation


def unchanged(call: Call) -> Spec:
    """Every value is mapped on its own: ids pass through."""
    return Spec(call.inputs[:1])


def kept_whole(call: Call, reason: str) -> Spec:
    """The channels pass through in their places, but none may go."""
    call.freeze(call.inputs[0].ids, reason)
    return unchanged(call)


def activation(call: Call) -> Spec:
    """Activation passes through if its function is a known element-wise one."""
    function = call.node.config["activation"]
    if not is_elementwise(function):
        return kept_whole(call, f"activation {function!r} is not known to work channel by channel")
    return unchanged(call)


def softmax(call: Call) -> Spec:
    """Softmax passes channels through only when it normalises along other axes."""
    axes = call.node.config["axis"]
    rank = len(call.node.inputs[0].shape)
    axes = range(rank) if axes is None else axes if isinstance(axes, (list, tuple)) else [axes]
    if call.inputs[0].axis in [normal_axis(a, rank) for a in axes]:
        return kept_whole(call, "softmax over channels: removing one changes all others")
    return unchanged(call)


def prelu(call: Call) -> Spec:
    """PReLU: one slope for each position of the axes it does not share."""
    (x,) = call.inputs
    rank = len(call.node.inputs[0].shape)
    shared = call.node.config.get("shared_axes") or ()
    axes = tuple(In() if a == x.axis and a not in shared else None for a in range(1, rank))
    return Spec((x,), {"alpha": axes})


def dropout(call: Call) -> Spec:
    """Dropout passes through unless its noise has an own size along the channels."""
    noise = call.node.config.get("noise_shape")
    if noise is not None and len(noise) > call.inputs[0].axis and noise[call.inputs[0].axis] not in (None, 1):
        return kept_whole(call, "noise_shape fixes the number of channels; give None or 1 there")
    return unchanged(call)


def rescaling(call: Call) -> Spec:
    """Rescaling by one number passes through; by a vector it would have to be sliced."""
    config = call.node.config
    if any(isinstance(config[key], (list, tuple, dict)) for key in ("scale", "offset")):
        return kept_whole(call, "Rescaling with one factor for each channel; use a BatchNormalization instead")
    return unchanged(call)


def normalization(call: Call) -> Spec:
    """Normalization with adapted statistics is sliced like a batch norm; with statistics in its config it is frozen."""
    (x,) = call.inputs
    config, rank = call.node.config, len(call.node.inputs[0].shape)
    axes = config["axis"]
    axes = sorted(normal_axis(a, rank) for a in (axes if isinstance(axes, (list, tuple)) else [axes]) if a is not None)
    if x.axis not in axes:
        return Spec((x,), {"mean": (None,) * len(axes), "variance": (None,) * len(axes), "count": ()})
    if config.get("mean") is not None:
        return kept_whole(call, "Normalization holds its statistics in the configuration, one for each channel")
    follows = tuple(In() if a == x.axis else None for a in axes)
    return Spec((x,), {"mean": follows, "variance": follows, "count": ()})


_L = keras.layers
RULES: dict[type, Rule] = {
    **dict.fromkeys([_L.ReLU, _L.LeakyReLU, _L.ELU, _L.Identity, _L.ActivityRegularization], unchanged),
    **dict.fromkeys([_L.GaussianNoise, _L.GaussianDropout, _L.SpatialDropout1D], unchanged),
    **dict.fromkeys([_L.SpatialDropout2D, _L.SpatialDropout3D], unchanged),
    **dict.fromkeys([_L.Dropout, _L.AlphaDropout], dropout),
    _L.Activation: activation,
    _L.Softmax: softmax,
    _L.PReLU: prelu,
    _L.Rescaling: rescaling,
    _L.Normalization: normalization,
}
