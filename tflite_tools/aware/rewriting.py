"""Changes of a blueprint that compute the same and that tensorflow-model-optimization can quantize to int8.

What its default scheme refuses, measured with 0.8.1, is either quantized at its output only, or written in other
layers: a batch norm that follows no convolution, a Rescaling and the like become a depthwise convolution of one tap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tflite_tools.aware.blueprint import Blueprint, Call, Layer
from tflite_tools.errors import QatError

DEFAULT = frozenset(
    "Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D Conv2DTranspose Cropping2D Dense "
    "DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D GlobalMaxPooling2D LeakyReLU MaxPooling2D Permute ReLU "
    "Reshape SeparableConv2D Softmax SpatialDropout2D UpSampling2D ZeroPadding2D".split()
)
"""What the default scheme takes."""
OUTPUT_ONLY = frozenset("Conv1D HardSwish Maximum Multiply PReLU Resizing Subtract".split())
_KERNELS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Conv1D", "Dense")
_NORMED = ("Conv2D", "DepthwiseConv2D", "Dense")
_ACTIVATIONS = frozenset("linear relu relu6 sigmoid tanh softmax silu swish gelu".split())


def rewrite(blueprint: Blueprint) -> Blueprint:
    """Rewrites in place, and returns it.

    Raises:
        QatError: some layers can be quantized in no way; names all of them.
    """
    for value in [call.makes for call in blueprint.calls]:
        call = blueprint.maker(value)  # as it is now: rules change whom others read
        assert call is not None
        _RULES.get(blueprint.layers[call.layer].kind, lambda *_: None)(blueprint, call)
    refused = [f"'{name}' ({layer.kind})" for name, layer in blueprint.layers.items() if not _supported(layer)]
    if refused:
        raise QatError(
            f"Quantization-aware training cannot quantize {', '.join(refused)}. Replace them, or quantize after "
            "training: convert(model, 'int8', ...)."
        )
    for layer in blueprint.layers.values():
        layer.output_only = layer.kind in OUTPUT_ONLY
    return blueprint


def _supported(layer: Layer) -> bool:
    activation = layer.config.get("activation", "linear")
    return layer.kind in DEFAULT | OUTPUT_ONLY and isinstance(activation, str) and activation in _ACTIVATIONS


def _split_activation(blueprint: Blueprint, call: Call) -> None:
    """An activation inside a kernel layer gets a layer of its own; only ReLU fuses without leaking float."""
    layer = blueprint.layers[call.layer]
    activation = layer.config.get("activation", "linear")
    if activation in ("linear", "relu") or not isinstance(activation, str):
        return
    layer.config["activation"] = "linear"
    name = f"{call.layer}_{activation}"
    blueprint.layers[name] = Layer("Activation", {"name": name, "activation": activation})
    _insert_after_all(blueprint, call.layer, name)
    _activation(blueprint, next(other for other in blueprint.calls if other.layer == name))


def _activation(blueprint: Blueprint, call: Call) -> None:
    layer = blueprint.layers[call.layer]
    activation = layer.config.get("activation")
    if activation in ("hard_silu", "hard_swish"):
        blueprint.layers[call.layer] = Layer("HardSwish", {"name": layer.config["name"]})
    elif activation == "hard_sigmoid":
        _hard_sigmoid(blueprint, call)
    elif activation == "leaky_relu":
        blueprint.layers[call.layer] = Layer("LeakyReLU", {"name": layer.config["name"], "negative_slope": 0.2})
    elif activation == "silu":
        layer.config["activation"] = "swish"  # its name in Keras 2
    elif activation == "linear":
        _drop(blueprint, call)


def _hard_sigmoid(blueprint: Blueprint, call: Call) -> None:
    """relu6(x + 3) / 6, with the sum and the product as convolutions; Keras 2's own hard_sigmoid is another."""
    channels = _image(blueprint, call, "hard_sigmoid")
    blueprint.layers[call.layer] = _scaling(call.layer, np.ones(channels), np.full(channels, 3.0))
    relu, last = f"{call.layer}_relu6", f"{call.layer}_sixth"
    blueprint.layers[last] = _scaling(last, np.full(channels, 1 / 6), np.zeros(channels))
    blueprint.layers[relu] = Layer("ReLU", {"name": relu, "max_value": 6.0})
    _insert_after_all(blueprint, call.layer, last)
    _insert_after_all(blueprint, call.layer, relu)


def _relu(blueprint: Blueprint, call: Call) -> None:
    config = blueprint.layers[call.layer].config
    top, slope, threshold = (config.get(k) for k in ("max_value", "negative_slope", "threshold"))
    if threshold or (slope and top is not None) or top not in (None, 6, 6.0):
        raise QatError(f"'{call.layer}' is a ReLU with {top=}, {slope=}, {threshold=}; use ReLU, ReLU(6) or LeakyReLU.")
    if slope:
        blueprint.layers[call.layer] = Layer("LeakyReLU", {"name": config["name"], "negative_slope": slope})


def _batch_norm(blueprint: Blueprint, call: Call) -> None:
    """Stays behind a kernel that nobody else reads; elsewhere it becomes what it computes."""
    layer, before = blueprint.layers[call.layer], blueprint.maker(call.reads[0])
    rank = len(blueprint.shapes[call.makes])
    if layer.config.get("axis", -1) not in (-1, [-1], rank, [rank]):
        raise QatError(f"'{call.layer}' normalises over another axis than the channels.")
    if before is not None and len(blueprint.readers(before.makes)) == 1:
        kernel = blueprint.layers[before.layer]
        if kernel.kind in _NORMED and kernel.config.get("activation") == "linear":
            return
    scale, shift = _affine(layer)
    _image(blueprint, call, "BatchNormalization that follows no convolution")
    blueprint.layers[call.layer] = _scaling(call.layer, scale, shift)


def _affine(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    weights = list(layer.weights)
    variance, mean = weights.pop(), weights.pop()
    gamma = weights.pop(0) if layer.config.get("scale", True) else np.ones_like(mean)
    beta = weights.pop(0) if layer.config.get("center", True) else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + layer.config["epsilon"])
    return scale, beta - mean * scale


def _rescaling(blueprint: Blueprint, call: Call) -> None:
    config = blueprint.layers[call.layer].config
    channels = _image(blueprint, call, "Rescaling")
    scale, offset = (np.broadcast_to(np.asarray(config[k], float), (channels,)) for k in ("scale", "offset"))
    blueprint.layers[call.layer] = _scaling(call.layer, scale, offset, trained=False)


def _normalization(blueprint: Blueprint, call: Call) -> None:
    layer = blueprint.layers[call.layer]
    channels = _image(blueprint, call, "Normalization")
    given = [layer.config.get("mean"), layer.config.get("variance")]
    mean, variance = layer.weights[:2] if given[0] is None else given
    mean, variance = (np.broadcast_to(np.asarray(x, float).reshape(-1), (channels,)) for x in (mean, variance))
    scale = 1 / np.maximum(np.sqrt(variance), 1e-7)
    blueprint.layers[call.layer] = _scaling(call.layer, scale, -mean * scale, trained=False)


def _average(blueprint: Blueprint, call: Call) -> None:
    """A sum of scaled operands."""
    if sum(other.layer == call.layer for other in blueprint.calls) > 1:
        raise QatError(f"'{call.layer}' is an Average that is called more than once; use a layer of its own each time.")
    channels, share = _image(blueprint, call, "Average"), 1 / len(call.reads)
    blueprint.layers[call.layer] = Layer("Add", {"name": blueprint.layers[call.layer].config["name"]})
    reads = []
    for number, read in enumerate(call.reads):
        name = f"{call.layer}_share{number}"
        blueprint.layers[name] = _scaling(name, np.full(channels, share), np.zeros(channels), trained=False)
        value = max(blueprint.shapes) + 1
        blueprint.shapes[value] = blueprint.shapes[read]
        blueprint.calls.insert(blueprint.calls.index(call), Call(name, (read,), value))
        reads.append(value)
    made = Call(call.layer, tuple(reads), call.makes)
    blueprint.calls[blueprint.calls.index(call)] = made
    _pairs(blueprint, made)


def _pairs(blueprint: Blueprint, call: Call) -> None:
    """Several operands two by two: what lies between two sums would else stay in float."""
    reads = list(call.reads)
    while len(reads) > 2:
        name = f"{call.layer}_{len(reads)}"
        layer = blueprint.layers[call.layer]
        blueprint.layers[name] = Layer(layer.kind, {**layer.config, "name": name})
        value = max(blueprint.shapes) + 1
        blueprint.shapes[value] = blueprint.shapes[call.makes]
        place = next(k for k, other in enumerate(blueprint.calls) if other.makes == call.makes)
        blueprint.calls.insert(place, Call(name, (reads[0], reads[1]), value))
        reads[:2] = [value]
    place = next(k for k, other in enumerate(blueprint.calls) if other.makes == call.makes)
    blueprint.calls[place] = Call(call.layer, tuple(reads), call.makes)


def _scaling(name: str, scale: Any, shift: Any, trained: bool = True) -> Layer:
    """y = scale x + shift for each channel, as a depthwise convolution of one tap."""
    config = {"name": name, "kernel_size": [1, 1], "use_bias": True, "activation": "linear", "trainable": trained}
    kernel = np.asarray(scale, np.float32).reshape(1, 1, -1, 1)
    return Layer("DepthwiseConv2D", config, [kernel, np.asarray(shift, np.float32)])


def _image(blueprint: Blueprint, call: Call, what: str) -> int:
    """The channels of an image [height, width, channels]."""
    shape = blueprint.shapes[call.makes]
    if len(shape) != 3 or any(size is None for size in shape):
        raise QatError(f"'{call.layer}': {what} can be rewritten for images only, and here values are {list(shape)}.")
    return shape[2]


def _insert_after_all(blueprint: Blueprint, layer: str, name: str) -> None:
    """Calls layer `name` on all that `layer`, which may be shared, makes; everyone else reads the new results."""
    for made in [call.makes for call in blueprint.calls if call.layer == layer]:
        value = max(blueprint.shapes) + 1
        blueprint.shapes[value] = blueprint.shapes[made]
        _reroute(blueprint, made, value)
        place = next(k for k, call in enumerate(blueprint.calls) if call.makes == made)
        blueprint.calls.insert(place + 1, Call(name, (made,), value))


def _drop(blueprint: Blueprint, call: Call) -> None:
    blueprint.calls.remove(call)
    _reroute(blueprint, call.makes, call.reads[0])
    if not any(other.layer == call.layer for other in blueprint.calls):
        del blueprint.layers[call.layer]


def _reroute(blueprint: Blueprint, old: int, new: int) -> None:
    swap: Callable[[Sequence[int]], list[int]] = lambda xs: [new if x == old else x for x in xs]  # noqa: E731
    blueprint.calls[:] = [
        Call(c.layer, tuple(swap(c.reads)), c.makes) if old in c.reads else c for c in blueprint.calls
    ]
    blueprint.outputs[:] = swap(blueprint.outputs)


_RULES: dict[str, Callable[[Blueprint, Call], None]] = {
    **dict.fromkeys(_KERNELS, _split_activation),
    "Activation": _activation,
    "Identity": _drop,
    "ReLU": _relu,
    "BatchNormalization": _batch_norm,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Average": _average,
    **dict.fromkeys(("Add", "Maximum", "Multiply"), _pairs),
}
