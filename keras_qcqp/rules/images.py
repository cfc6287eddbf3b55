"""Image layers: augmentation, which does nothing after training, and what works on each channel by itself.

A smaller network is trained again, so a layer passes channels through only if it also runs on fewer of them.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_qcqp.channels import Call, Frozen, Rule, Spec
from keras_qcqp.rules.cells import is_from_keras
from keras_qcqp.rules.elementwise import kept_whole

_BY_CHANNEL = """CenterCrop ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization MaxNumBoundingBoxes MixUp
    RandomBrightness RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSharpness RandomShear RandomTranslation
    RandomZoom Resizing Solarization""".split()
_BY_COLOUR = """AugMix RandAugment RandomColorDegeneration RandomColorJitter RandomGrayscale RandomHue
    RandomSaturation""".split()


def by_channel(call: Call) -> Spec:
    """Every channel is an image of its own."""
    _refuse_odd_calls(call)
    _require_axis(call, call.node.kind, call.node.config)
    return Spec(call.inputs)


def by_colour(call: Call) -> Spec:
    """Mixes red, green and blue while training, and then does nothing."""
    _refuse_odd_calls(call)
    return kept_whole(call, _colour_reason(call.node.kind))


def _colour_reason(kind: str) -> str:
    return f"{kind} works on the three colours of an image; put it right behind the Input"


def auto_contrast(call: Call) -> Spec:
    """Stretches every channel by its least and greatest value along axes 1 and 2, whatever `data_format` says."""
    _refuse_odd_calls(call)
    if call.inputs[0].axis != 3:
        return kept_whole(call, f"AutoContrast works along axis {call.inputs[0].axis}, which carries the channels")
    return Spec(call.inputs)


def pipeline(call: Call) -> Spec:
    """Pipeline of image layers: as its strictest member."""
    _refuse_odd_calls(call)
    for entry in call.node.config["layers"]:
        kind, config = entry["class_name"], entry["config"]
        cls = getattr(keras.layers, kind, None) if is_from_keras(entry, kind) else None
        rule = RULES.get(cls) if cls is not None else None
        if rule is by_colour:
            return kept_whole(call, _colour_reason(f"{kind} in it"))
        if rule is auto_contrast:
            config = {"data_format": "channels_last"}
        elif rule is not by_channel:
            raise Frozen(f"Pipeline with a {kind}; call its layers one after the other instead")
        _require_axis(call, f"{kind} in it", config)
    return Spec(call.inputs)


def _refuse_odd_calls(call: Call) -> None:
    if len(call.inputs) != 1 or len(call.node.outputs) != 1:
        raise Frozen(f"{call.node.kind} is called with labels, boxes or masks beside its images")


def _require_axis(call: Call, kind: str, config: Any) -> None:
    axis = 1 if config.get("data_format") == "channels_first" else 3
    if call.inputs[0].axis != axis:
        raise Frozen(f"{kind} works along axis {call.inputs[0].axis}, which carries the channels")


def _named(*names: str) -> list[Any]:
    """Layer classes by name; some are in newer Keras releases only."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


RULES: dict[type, Rule] = {
    **dict.fromkeys(_named(*_BY_CHANNEL), by_channel),
    **dict.fromkeys(_named(*_BY_COLOUR), by_colour),
    **dict.fromkeys(_named("AutoContrast"), auto_contrast),
    **dict.fromkeys(_named("Pipeline"), pipeline),
}
