"""`keras.ops` calls on images: pooling, resizing, cropping; each channel on its own."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_qcqp.channels import Call, Channels, Frozen, Rule, Spec
from keras_qcqp.rules.arguments import numbers


def channel_by_channel(call: Call) -> Spec:
    """What happens to one channel does not depend on the others."""
    return Spec((_image(call),))


def extract_patches(call: Call) -> Spec:
    """ops.image.extract_patches: all channels of the first position of a patch, then all of the next."""
    x, size = _image(call), call.node.config["size"]
    area = math.prod(numbers(size)) if isinstance(size, (list, tuple)) else size ** (2 if len(_shape(call)) < 5 else 3)
    return Spec((Channels(np.tile(x.ids, area), x.axis),))


def _image(call: Call) -> Channels:
    """The channels of the first input, if they are where the operation expects them; the others are read whole."""
    x, rank = call.inputs[0], len(_shape(call))
    layout = call.node.config.get("data_format") or keras.config.image_data_format()
    if x.axis != (1 if layout == "channels_first" else rank - 1):
        raise Frozen(f"{call.node.kind} works along axis {x.axis}, which carries the channels")
    for other in call.inputs[1:]:
        call.freeze(other.ids, f"{call.node.kind} reads this operand whole")
    return x


def _shape(call: Call) -> tuple[int | None, ...]:
    return call.node.inputs[0].shape


_POOLING = ["AdaptiveAveragePool", "AdaptiveMaxPool", "AveragePool", "MaxPool"]
_MOVING = ["AffineTransform", "CropImages", "GaussianBlur", "PadImages", "PerspectiveTransform", "Resize"]

RULES: dict[str, Rule] = {
    **dict.fromkeys([*_POOLING, *_MOVING], channel_by_channel),
    "ExtractPatches": extract_patches,
}
