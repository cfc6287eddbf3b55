"""Replays the calls of a Keras 2 (`tf_keras`) model on Keras 3 layers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_qcqp import keras_graph
from keras_qcqp.errors import ModelError
from keras_qcqp.legacy.graph import (
    calls,
    flat,
    is_own,
    is_sequential,
    is_tf_keras,
    mapped,
    require_functional,
    structures,
)
from keras_qcqp.legacy.layers import convert_layer
from keras_qcqp.legacy.operations import call_operation, supported
from keras_qcqp.legacy.verify import require_equal
from keras_qcqp.legacy.weights import copy_weights

_FUNCTIONS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
_WRAPPERS = {"TimeDistributed": keras.layers.TimeDistributed}  # around a layer that may be a whole model


def from_tf_keras(model: Any, custom_objects: Mapping[str, Any] | None = None) -> keras.Model:
    """A Keras 3 model that computes the same as a Keras 2 (`tf_keras`) model; the given model is not changed.

    Names, weights, dtype policies, trainable flags, nesting and the structures of inputs and outputs stay; a `/` in a
    name, which Keras 3 does not allow, becomes `_`. Both models are run on random inputs and must agree. The new model
    is not compiled.

    Args:
        model: a Functional or built Sequential model of `tf_keras`.
        custom_objects: name of a layer class or activation function of your own -> the same for Keras 3. It gets the
            configuration and the weights of the original.

    Raises:
        ModelError: it is no such model, uses something that Keras 3 does not have, or computes something else
            afterwards; names the layer.
    """
    if not is_tf_keras(model):
        found = f"{type(model).__module__}.{type(model).__name__}"
        raise ModelError(f"A model of tf_keras was expected, got {found}.")
    converter = _Converter(dict(custom_objects or {}))
    new = converter.model(model, "")
    converter.copy_state()
    require_equal(model, new)
    return new


class _Converter:
    """Converts each layer object once, however often it is called and in whichever model."""

    def __init__(self, custom: Mapping[str, Any]) -> None:
        self._custom = custom
        self._layers: dict[int, list[Any]] = {}
        self._pairs: list[tuple[Any, Any, str]] = []
        self._models: list[tuple[Any, keras.Model]] = []  # inner ones first

    def copy_state(self) -> None:
        """Trainable flags, those of models first, and weights, which Keras 3 makes at the first call."""
        for old, model in reversed(self._models):
            if not old.trainable:
                model.trainable = False
        for old, new, path in self._pairs:
            copy_weights(old, new, path)
            new.trainable = old.trainable

    def model(self, model: Any, path: str) -> keras.Model:
        require_functional(model)
        names = _unique_names(model)
        tensors = {id(x): _new_input(x, names) for x in model.inputs}
        if is_sequential(model):
            layers = [new for old in model.layers for new in self._layer(old, names[id(old)], path)]
            new = _sequential(model, [tensors[id(model.inputs[0])], *layers])
        else:
            for node in calls(model):
                if id(flat(node.outputs)[0]) not in tensors:
                    self._replay(node, tensors, names[id(node.layer)], path)
            inputs, outputs = (mapped(lambda x: tensors[id(x)], part) for part in structures(model))
            new = keras.Model(inputs, outputs, name=_allowed(model.name))
        self._models.append((model, new))
        return new

    def _replay(self, node: Any, tensors: dict[int, Any], name: str, path: str) -> None:
        args, kwargs = (mapped(lambda x: tensors.get(id(x), x), x) for x in (node.call_args, node.call_kwargs))
        try:
            if type(node.layer).__name__ in _FUNCTIONS and is_own(node.layer):
                outputs = _operation(node.layer, args, kwargs, name)
            else:
                first, *others = self._layer(node.layer, name, path)
                outputs = _call(first, args, kwargs)
                for other in others:
                    outputs = other(outputs)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"Layer '{path}{node.layer.name}' ({type(node.layer).__name__}) cannot be called in Keras 3 as it is "
                f"in Keras 2: {error}"
            ) from error
        tensors.update((id(a), b) for a, b in zip(flat(node.outputs), flat(outputs), strict=True))

    def _layer(self, layer: Any, name: str, path: str) -> list[Any]:
        if id(layer) not in self._layers:
            self._layers[id(layer)] = self._converted(layer, name, path)
        return self._layers[id(layer)]

    def _converted(self, layer: Any, name: str, path: str) -> list[Any]:
        if is_tf_keras(layer):
            return [self.model(layer, f"{path}{layer.name}/")]
        if type(layer).__name__ in _WRAPPERS and is_own(layer) and is_tf_keras(layer.layer):
            inner = self.model(layer.layer, f"{path}{layer.name}/{layer.layer.name}/")
            return [_WRAPPERS[type(layer).__name__](inner, name=name)]
        new = convert_layer(layer, name, self._custom)
        self._pairs.append((layer, new[0], f"{path}{layer.name}"))
        return new


def _call(layer: Any, args: Any, kwargs: Any) -> Any:
    """Calls a layer; Keras 2 hands the initial states of a recurrent layer over in one list with its input."""
    stateful = isinstance(layer, keras.layers.Layer) and "initial_state" in inspect.signature(layer.call).parameters
    if stateful and args and isinstance(args[0], list) and len(args[0]) > 1:
        x, *states = args[0]
        return layer(x, *args[1:], **kwargs, initial_state=states)
    return layer(*args, **kwargs)


def _sequential(old: Any, layers: list[Any]) -> keras.Model:
    try:
        return keras.Sequential(layers, name=_allowed(old.name))
    except Exception as error:
        raise ModelError(f"Keras 2 Sequential model '{old.name}' cannot be built in Keras 3: {error}") from error


def _operation(layer: Any, args: Any, kwargs: Any, name: str) -> Any:
    symbol = getattr(layer, "symbol", None)
    if not supported(symbol):
        called = f"tf.{symbol}" if symbol else "a TensorFlow function"
        raise ModelError(
            f"Layer '{layer.name}' calls {called}, which has no counterpart here. Use a tf_keras layer for it, or put "
            "it into a layer class of your own and give custom_objects."
        )
    outputs = call_operation(str(symbol), args, kwargs)
    keras_graph.name_steps(flat(outputs), flat([args, kwargs]), name)
    return outputs


def _new_input(x: Any, names: Mapping[int, str]) -> Any:
    layer = x.node.layer
    config = layer.get_config()
    if config.get("ragged"):
        raise ModelError(f"Input '{layer.name}' is ragged, which Keras 3 models are not. Pad it to a dense tensor.")
    shape = tuple(x.shape)
    return keras.Input(batch_shape=shape, dtype=x.dtype.name, name=names[id(layer)], sparse=bool(config.get("sparse")))


def _allowed(name: str) -> str:
    return name.replace("/", "_")


def _unique_names(model: Any) -> dict[int, str]:
    """Layer object -> its name; a name that was changed must not become another's."""
    layers = [x.node.layer for x in model.inputs] + list(model.layers)
    taken = {layer.name for layer in layers}
    names: dict[int, str] = {}
    for layer in layers:
        name = layer.name
        if id(layer) not in names and "/" in name:
            name = _allowed(name)
            while name in taken:
                name += "_"
            taken.add(name)
        names.setdefault(id(layer), name)
    return names
