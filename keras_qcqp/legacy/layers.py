"""Keras 3 layers that do what Keras 2 layers do, by class and configuration."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_qcqp.errors import ModelError
from keras_qcqp.legacy.graph import is_own

Custom = Mapping[str, Any]

_OTHER_CLASS = {"ThresholdedReLU": "ReLU", "SyncBatchNormalization": "BatchNormalization"}
_OTHER_KEY = {"LeakyReLU": {"alpha": "negative_slope"}, "ThresholdedReLU": {"theta": "threshold"}}
_MEANINGLESS = """batch_input_shape implementation input_length input_shape key_shape query_shape rng_type value_shape
    vocabulary_size""".split()  # known from the call, or says how and not what to compute
_HARMLESS = {"groups": 1, "autocast": True}  # key that Keras 3 does not know -> the value that changes nothing
_SEPARABLE = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")  # of the kernel these layers do not have
_MODULES = ("initializers", "regularizers", "constraints")
_HARD_SIGMOID = "hard_sigmoid"


def convert_layer(layer: Any, name: str, custom: Custom) -> list[keras.layers.Layer]:
    """The layer under the given name and without its weights, then what has to follow it.

    Raises:
        ModelError: Keras 3 has no such layer, or it does not know a setting of it.
    """
    if type(layer).__name__ == "Lambda" and is_own(layer):
        return [keras.layers.Lambda(layer.function, name=name, dtype=_dtype(layer), arguments=layer.arguments)]
    cls = _class_of(layer, custom)
    config = {**_with_functions(layer, custom), "name": name}
    recurrent = "recurrent_initializer" in config
    soft = config.get("activation") == _HARD_SIGMOID and not recurrent and _HARD_SIGMOID not in custom
    if soft and type(layer).__name__ == "Activation":
        return _hard_sigmoid(name, config["dtype"])
    if soft:
        config["activation"] = "linear"
    try:
        with keras.saving.custom_object_scope({**_under_own_names(custom), **custom}):
            new = cls.from_config(_fitted(cls, config, type(layer).__name__, custom))
    except Exception as error:
        raise ModelError(
            f"Layer '{layer.name}' ({type(layer).__name__}) cannot be made in Keras 3: {cause(error)}. Replace it in "
            f"the Keras 2 model, or give from_tf_keras(model, custom_objects={{'{type(layer).__name__}': "
            "YourKeras3Layer})."
        ) from error
    return [new, *(_hard_sigmoid(f"{name}_{_HARD_SIGMOID}", config["dtype"]) if soft else ())]


def _under_own_names(custom: Custom) -> dict[str, Any]:
    """Wrappers write their layer's configuration and read it again, functions in it by their own names."""
    return {value.__name__: value for value in custom.values() if hasattr(value, "__name__")}


def cause(error: Exception) -> str:
    """Keras repeats the whole configuration before it says what is wrong with it."""
    lines = str(error).rpartition("Exception encountered: ")[2].strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__


def _hard_sigmoid(name: str, dtype: Any) -> list[keras.layers.Layer]:
    """Keras 3 gave the name to another function, relu6(x + 3) / 6; in Keras 2 it is clip(0.2 x + 0.5, 0, 1)."""
    dtype = _translated(dtype, {})
    return [
        keras.layers.Rescaling(0.2, 0.5, name=f"{name}_scaled", dtype=dtype),
        keras.layers.ReLU(max_value=1.0, name=name, dtype=dtype),
    ]


def _class_of(layer: Any, custom: Custom) -> Any:
    cls = type(layer)
    if cls.__name__ in custom:
        return custom[cls.__name__]
    if is_own(layer):
        found = getattr(keras.layers, _OTHER_CLASS.get(cls.__name__, cls.__name__), None)
        if (
            found is None and ".applications." in cls.__module__
        ):  # layers that ready-made networks define for themselves
            home = importlib.import_module(cls.__module__.replace("tf_keras.", "keras.", 1))
            found = getattr(home, cls.__name__, None)
        if found is not None:
            return found
    raise ModelError(
        f"Layer '{layer.name}' ({cls.__module__}.{cls.__name__}) has no counterpart in Keras 3. Write it as a Keras 3 "
        f"layer and give from_tf_keras(model, custom_objects={{'{cls.__name__}': YourKeras3Layer}})."
    )


def _with_functions(layer: Any, custom: Custom) -> dict[str, Any]:
    """The configuration, with the user's own activation functions as functions."""
    config = dict(layer.get_config())
    activation = getattr(layer, "activation", None)
    known = isinstance(config.get("activation"), str) and hasattr(keras.activations, config["activation"])
    if "activation" in config and callable(activation) and not known:
        config["activation"] = custom.get(getattr(activation, "__name__", ""), activation)
    return config


def _fitted(cls: Any, config: Mapping[str, Any], kind: str, custom: Custom) -> dict[str, Any]:
    """The configuration without what Keras 3 does not know and does not need."""
    for key in ("activation", "recurrent_activation"):
        if config.get(key) == _HARD_SIGMOID:
            config = {**config, key: _own_hard_sigmoid(custom)}
    accepted, fitted = _accepted(cls), {}
    for key, value in config.items():
        key = _OTHER_KEY.get(kind, {}).get(key, key)
        if key in accepted:
            fitted[key] = _translated(value, custom)
        elif not _may_go(kind, key, value):
            raise ValueError(f"its setting {key}={value!r} is unknown there")
    axis = fitted.get("axis")
    if kind.endswith("BatchNormalization") and isinstance(axis, (list, tuple)):
        if len(axis) != 1:
            raise ValueError(f"it normalises over several axes, {list(axis)}")
        fitted["axis"] = axis[0]
    return fitted


def _own_hard_sigmoid(custom: Custom) -> Any:
    if _HARD_SIGMOID not in custom:
        raise ValueError(
            "Keras 3's hard_sigmoid is another function than that of Keras 2 "
            "(custom_objects={'hard_sigmoid': a function of yours for clip(0.2 x + 0.5, 0, 1)})"
        )
    return custom[_HARD_SIGMOID]


def _may_go(kind: str, key: str, value: Any) -> bool:
    separable = kind.startswith("Separable") and key in _SEPARABLE
    harmless = value is None or value is False or key == "trainable" or value == _HARMLESS.get(key, object)
    return harmless or separable or key in _MEANINGLESS


def _accepted(cls: Any) -> set[str]:
    """Argument names of a class and, as long as they take `**kwargs`, of its bases."""
    found: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters.values()
            found |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                break
    return found


def _translated(value: Any, custom: Custom) -> Any:
    """A configuration value as Keras 3 writes it."""
    if hasattr(value, "numpy") or hasattr(value, "tolist"):
        value = value.numpy() if hasattr(value, "numpy") else value
        return value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        items = [_translated(item, custom) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if not isinstance(value, Mapping):
        return value
    if not {"class_name", "config"} <= set(value):
        return {key: _translated(item, custom) for key, item in value.items()}
    return _translated_object(value, custom)


def _translated_object(value: Mapping[str, Any], custom: Custom) -> Any:
    name, config = value["class_name"], value["config"]
    if name in ("Policy", "PolicyV1"):
        return config["name"]
    if not isinstance(config, Mapping):
        return dict(value)
    if name in custom:
        fitted = _fitted(custom[name], config, name, custom)
        return {"module": None, "class_name": name, "config": fitted, "registered_name": name}
    if hasattr(keras.layers, name):
        return _described("layers", name, _fitted(getattr(keras.layers, name), config, name, custom))
    for module in _MODULES:
        if hasattr(getattr(keras, module), name):
            return _described(module, name, _translated(config, custom))
    raise ValueError(
        f"it holds a '{name}', which Keras 3 does not have (custom_objects={{'{name}': its Keras 3 class}})"
    )


def _described(module: str, name: str, config: Any) -> dict[str, Any]:
    return {"module": f"keras.{module}", "class_name": name, "config": config, "registered_name": None}


def _dtype(layer: Any) -> Any:
    return _translated(layer.get_config().get("dtype"), {})
