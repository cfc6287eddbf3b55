"""Blueprint -> `tf_keras` model, ready for quantization. Only the training process imports this."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from tflite_tools.aware.blueprint import Blueprint, Layer
from tflite_tools.errors import QatError

_QUANT = tfmot.quantization.keras
_FIXED = ("dtype", "name", "quantization_config")


class HardSwish(tf_keras.layers.Layer):
    """x relu6(x + 3) / 6, which becomes one operator."""

    def call(self, x: Any) -> Any:
        """Applies it."""
        return x * tf.nn.relu6(x + 3.0) * (1 / 6.0)


class OutputOnly(_QUANT.QuantizeConfig):  # type: ignore[name-defined]
    """Nothing inside the layer is quantized; its output is: 8 bits, a moving average of its range."""

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        """None."""
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        """None."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        """Nothing to set."""

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        """Nothing to set."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """One."""
        return [
            _QUANT.quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        ]

    def get_config(self) -> dict[str, Any]:
        """No settings."""
        return {}


def build(blueprint: Blueprint, quantized: bool) -> Any:
    """The network with the weights of the blueprint.

    Args:
        blueprint: what to build, rewritten.
        quantized: with simulated quantization, or without.

    Raises:
        QatError: `tf_keras` or tensorflow-model-optimization refuse a layer; names it.
    """
    layers = {name: _layer(name, layer) for name, layer in blueprint.layers.items()}
    used = dict(layers)
    if quantized:
        for name, layer in blueprint.layers.items():
            if layer.output_only:
                used[name] = _QUANT.quantize_annotate_layer(layers[name], OutputOnly())
    values: dict[int, Any] = {}
    for number, name in blueprint.inputs:
        values[number] = tf_keras.Input(blueprint.shapes[number], name=name)
    inputs = list(values.values())
    for call in blueprint.calls:
        reads = [values[number] for number in call.reads]
        try:
            values[call.makes] = used[call.layer](reads[0] if len(reads) == 1 else reads)
        except (TypeError, ValueError) as error:
            raise QatError(f"tf_keras refuses '{call.layer}': {str(error).splitlines()[0]}") from error
    model = tf_keras.Model(inputs, [values[number] for number in blueprint.outputs], name="twin")
    for name, layer in blueprint.layers.items():
        if layer.weights:
            layers[name].set_weights(layer.weights)
    if not quantized:
        return model
    try:
        with _QUANT.quantize_scope({"OutputOnly": OutputOnly, "HardSwish": HardSwish}):
            return _QUANT.quantize_apply(_QUANT.quantize_annotate_model(model))
    except (RuntimeError, ValueError) as error:
        raise QatError(f"tensorflow-model-optimization refuses the network: {str(error).splitlines()[0]}") from error


def _layer(name: str, layer: Layer) -> Any:
    """The class of the same name with those of the settings that it knows; initial values are overwritten anyway."""
    flat = name.replace("/", "__")
    if layer.kind == "HardSwish":
        return HardSwish(name=flat)
    cls = getattr(tf_keras.layers, layer.kind, None)
    if cls is None:
        raise QatError(f"tf_keras has no layer {layer.kind}, which '{name}' is.")
    known = _settings(cls)
    config = {
        k: v for k, v in layer.config.items() if k in known and k not in _FIXED and not k.endswith("_initializer")
    }
    if layer.kind == "LeakyReLU":
        config["alpha"] = layer.config["negative_slope"]
    return cls.from_config({**config, "name": flat})


def _settings(cls: Any) -> set[str]:
    known = {"name", "trainable"}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            known |= set(inspect.signature(base.__init__).parameters)
    return known


def outputs_of(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs for a batch, as arrays."""
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(x) for x in (found if isinstance(found, (list, tuple)) else [found])]
