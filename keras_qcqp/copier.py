"""Copies a model, call by call, with changes: other configurations and arguments, operations put in between."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp import keras_graph
from keras_qcqp.branches.fates import MERGES
from keras_qcqp.carry_over import copy_assets, custom_objects
from keras_qcqp.channels import Adapter
from keras_qcqp.errors import ModelError

Edits = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is different in the copy, by the path of a layer or operation.

    Attributes:
        config: new configuration entries.
        arguments: new call arguments.
        before: what to do to an input (its number) on the way in.
        after: what to do to the first output.
        absent: calls (a path, with `#k` for the k-th further call) that are left out; concatenations, additions and
            products go on with the operands that are left.
        constants: what an absent operand (its number) is worth to an addition or product.
    """

    config: Edits = dataclasses.field(default_factory=dict)
    arguments: Edits = dataclasses.field(default_factory=dict)
    before: Mapping[str, Mapping[int, Adapter]] = dataclasses.field(default_factory=dict)
    after: Mapping[str, Adapter] = dataclasses.field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    constants: Mapping[str, Mapping[int, np.ndarray]] = dataclasses.field(default_factory=dict)


def copied(model: keras.Model, changes: Changes) -> keras.Model:
    """A model of the same structure and names; its weights are not set."""
    return _Copier(changes).model(model, "", None)


class _Copier:
    """Replays a model's calls on copies of its layers, nested models included."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._copies: dict[int, Any] = {}  # an object used twice is copied once
        self._num_calls: dict[str, int] = {}

    def model(self, model: keras.Model, prefix: str, entries: list[Any] | None) -> keras.Model:
        """Copies a model; `entries` are the tensors that will enter it, None at the top level."""
        functional = keras_graph.as_functional(model)
        assert functional is not None
        tensors = {}
        for k, x in enumerate(functional.inputs):
            shape = x.shape if entries is None else _entry_shape(x.shape, entries[k].shape)
            tensors[id(x)] = keras_graph.new_input(x, shape)
        if isinstance(model, keras.Sequential) and not self._surrounded(model, prefix):
            entry = tensors[id(functional.inputs[0])]
            layers = self._sequential(model, prefix, entry)
            return keras.Sequential([entry, *layers], name=model.name)
        names = {node.operation.name for node in keras_graph.calls(functional)}
        for node in keras_graph.calls(functional):
            if id(node.outputs[0]) not in tensors:
                self._replay(node, prefix, tensors, names)
        inputs, outputs = keras_graph.structures(functional)
        swap = lambda x: tensors[id(x)]  # noqa: E731
        return keras.Model(
            keras.tree.map_structure(swap, inputs), keras.tree.map_structure(swap, outputs), name=model.name
        )

    def _surrounded(self, model: keras.Sequential, prefix: str) -> bool:
        """Whether something is put between layers, which a Sequential cannot say."""
        paths = {f"{prefix}{layer.name}" for layer in model.layers}
        return not paths.isdisjoint({*self._changes.before, *self._changes.after})

    def _sequential(self, model: keras.Sequential, prefix: str, entry: Any) -> list[Any]:
        layers, x = [], entry
        for layer in model.layers:
            layers.append(self._operation(layer, prefix, [x]))
            x = layers[-1](x)
        return layers

    def _replay(self, node: Any, prefix: str, tensors: dict[int, Any], names: set[str]) -> None:
        path = f"{prefix}{node.operation.name}"
        number = self._num_calls[path] = self._num_calls.get(path, 0) + 1
        call = path if number == 1 else f"{path}#{number}"
        if call in self._changes.absent:
            return
        if any(id(x) not in tensors for x in node.arguments.keras_tensors):
            tensors[id(node.outputs[0])] = self._with_what_is_left(node, call, prefix, tensors, names)
            return
        inner = keras_graph.as_functional(node.operation)
        entries = node.input_tensors if inner is None else keras_graph.entering(node, inner)
        operation = self._operation(node.operation, prefix, [tensors[id(x)] for x in entries])
        given = {id(x): tensors[id(x)] for x in node.arguments.keras_tensors}
        for k, adapt in self._changes.before.get(path, {}).items():
            x = node.arguments.keras_tensors[k]
            given[id(x)] = adapt(tensors[id(x)], _unused(f"{node.operation.name}_align_{k}", names))
        args, kwargs = node.arguments.fill_in(given)
        if self._changes.arguments.get(path):
            bound = inspect.signature(node.operation.call).bind(*args, **kwargs)
            for name, value in self._changes.arguments[path].items():
                _set_argument(bound.arguments, name, value)
            args, kwargs = bound.args, bound.kwargs
        if (
            inner is not None
            and isinstance(args and args[0], dict)
            and not isinstance(keras_graph.structures(inner)[0], dict)
        ):
            # Keras matches names when it computes, but takes alphabetical order when it infers shapes.
            args = ([tensors[id(x)] for x in entries], *args[1:])
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        if path in self._changes.after:
            outputs[0] = self._changes.after[path](outputs[0], _unused(f"{node.operation.name}_correct", names))
        tensors.update((id(old), new) for old, new in zip(node.outputs, outputs, strict=True))

    def _with_what_is_left(self, node: Any, path: str, prefix: str, tensors: dict[int, Any], names: set[str]) -> Any:
        """A concatenation, addition or product some of whose operands are absent."""
        name, before, left = node.operation.name, self._changes.before.get(path, {}), []
        for k, x in enumerate(node.arguments.keras_tensors):
            if id(x) in tensors:
                y = tensors[id(x)]
                left.append(before[k](y, _unused(f"{name}_align_{k}", names)) if k in before else y)
        y = left[0] if len(left) == 1 else self._operation(node.operation, prefix, left)(left)
        for k, value in self._changes.constants.get(path, {}).items():
            fold = getattr(keras.ops, MERGES[type(node.operation).__name__])
            y = keras_graph.rename(fold(y, value.astype(y.dtype)), _unused(f"{name}_constant_{k}", names))
        return y

    def _operation(self, operation: Any, prefix: str, entries: list[Any]) -> Any:
        if id(operation) not in self._copies:
            self._copies[id(operation)] = self._copy(operation, prefix, entries)
        return self._copies[id(operation)]

    def _copy(self, operation: Any, prefix: str, entries: list[Any]) -> Any:
        path = f"{prefix}{operation.name}"
        inner = keras_graph.as_functional(operation)
        if inner is not None:
            return self.model(operation, f"{path}/", entries)
        edits = self._changes.config.get(path, {})
        if isinstance(operation, keras.layers.Lambda):
            return keras_graph.copy_lambda(operation)
        if isinstance(operation, keras.layers.TFSMLayer):
            return type(operation)(**operation.get_config())  # its graph was loaded before: no new risk
        if not isinstance(operation, keras.layers.Layer) and not edits:
            return keras_graph.copy_operation(operation)  # its arguments need not be serialisable
        copy = _from_config(operation, path, edits)
        copy_assets(operation, copy)
        return copy


def _set_argument(arguments: dict[str, Any], name: str, value: Any) -> None:
    """Sets an argument, or, for "name/k", the k-th item of one that is a list."""
    name, _, place = name.partition("/")
    if place:
        items = list(arguments[name])
        items[int(place)] = value
        value = type(arguments[name])(items)
    arguments[name] = value


def _unused(name: str, names: set[str]) -> str:
    """A name that begins like no other; pruning a pruned model meets its own alignments again."""
    while any(other.startswith(name) for other in names):
        name += "x"
    names.add(name)
    return name


def _entry_shape(old: keras_graph.Shape, given: keras_graph.Shape) -> keras_graph.Shape:
    """What a nested model is built for: as before, with the widths it is given now; free sizes stay free."""
    return (old[0], *(None if size is None else new for size, new in zip(old[1:], given[1:], strict=True)))


def _from_config(layer: Any, path: str, edits: Mapping[str, Any]) -> Any:
    try:
        if not isinstance(layer, keras.layers.Layer):
            return type(layer).from_config({**layer.get_config(), **edits})
        with keras.saving.custom_object_scope(custom_objects(layer)), keras_graph.copying(layer) as share:
            copy = type(layer).from_config(_startable({**_configured(layer), **edits}))
            share(copy)
            if copy.name != layer.name:
                copy.name = layer.name  # some constructors add to the name they are given
            return copy
    except Exception as error:
        raise ModelError(
            f"Layer '{path}' ({type(layer).__name__}) cannot be rebuilt from its get_config(): {error}. "
            "Its from_config() must accept what its get_config() returns."
        ) from error


def _configured(layer: Any) -> dict[str, Any]:
    return {key: _live(layer, key, value) for key, value in layer.get_config().items()}


def _live(layer: Any, key: str, value: Any) -> Any:
    """An anonymous function, which a configuration cannot hold, or the value."""
    held = getattr(layer, key, None)
    return held if isinstance(held, types.LambdaType) and held.__name__ == "<lambda>" else value


def _startable(value: Any, key: str = "") -> Any:
    """The configuration with zeros for each initializer that holds an array, which has the old shape.

    Weights are set anyway.
    """
    if isinstance(value, list):
        return [_startable(item) for item in value]
    if not isinstance(value, dict):
        return value
    if key.endswith("initializer") and value.get("class_name") == "Constant":
        constant = value.get("config", {}).get("value")
        return value if isinstance(constant, (int, float)) else "zeros"
    return {name: _startable(item, name) for name, item in value.items()}
