"""What a copy of a model takes over besides its layers: trainable flags, policies, compile settings, custom objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_qcqp import keras_graph


def copy_trainable(model: keras.Model, clone: keras.Model) -> None:
    """Flags and dtype policies of containers; outer flags first, since setting one sets all below it."""
    clone.trainable, clone.dtype_policy = model.trainable, model.dtype_policy
    copies = {layer.name: layer for layer in clone.layers}  # their order may differ where operands were aligned
    for old in model.layers:
        if old.name not in copies:  # its branch went altogether
            continue
        if keras_graph.as_functional(old) is not None:
            copy_trainable(old, copies[old.name])
        else:
            _copy_flags(old, copies[old.name])


def _copy_flags(old: Any, clone: Any) -> None:
    """Of a layer and of those inside it."""
    clone.trainable = old.trainable
    for inner, copy in zip(keras_graph.sublayers(old), keras_graph.sublayers(clone), strict=False):
        _copy_flags(inner, copy)


def copy_compile(model: keras.Model, clone: keras.Model) -> None:
    """Compiles the clone as the model was; warns, at the caller of `rebuild`, of what cannot be taken over."""
    own = [name for name in _TRAINING if not _from_keras(getattr(type(model), name, None))]
    if own:
        warnings.warn(
            f"'{model.name}' has its own {', '.join(own)} ({type(model).__name__}); the pruned model is a plain Keras "
            "model without them.",
            stacklevel=4,
        )
    if not model.compiled or "compile" in own:
        return
    settings = keras_graph.compile_settings(model)
    try:
        clone.compile(**{key: keras.tree.map_structure(_afresh, value) for key, value in settings.items()})
    except Exception as error:  # an optimizer or metric of the user's own must not cost them the pruned model
        warnings.warn(
            f"The compile settings of '{model.name}' could not be carried over ({error}); call compile() again.",
            stacklevel=4,
        )


_TRAINING = ("compile", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def _from_keras(function: Any) -> bool:
    return function is None or function.__module__.startswith("keras.src.")


def _afresh(value: Any) -> Any:
    """Optimizers and metrics have a state: new ones with the same settings. Everything else can be shared."""
    if isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        with keras.saving.custom_object_scope(custom_objects(value)):
            return type(value).from_config(value.get_config())
    return value


def custom_objects(holder: Any) -> dict[str, Any]:
    """The user's own functions and classes that a layer (or model) holds, under the names its config gives them.

    Those of layers inside it count too, and these layers themselves.
    """
    found: dict[str, Any] = {}
    for inner in keras_graph.sublayers(holder):
        found |= custom_objects(inner)
    for value in (*vars(holder).values(), *keras_graph.sublayers(holder)):
        cls: Callable[..., Any] = value if callable(value) and hasattr(value, "__name__") else type(value)
        if not getattr(cls, "__module__", "builtins").startswith(("keras.", "builtins")):
            found[cls.__name__] = cls
    return found
