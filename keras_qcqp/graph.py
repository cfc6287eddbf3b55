"""Reads a Keras model into a flat graph of calls.

A node is a *call*, not a layer: a layer used twice gives two nodes with the same `layer`. Nested models dissolve: their
layers appear under a path such as `encoder/conv1`, and only the path remembers them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from keras_qcqp.errors import ModelError
from keras_qcqp.keras_graph import Shape, as_functional, calls, entering, named_weights, require_functional
from keras_qcqp.legacy import modern


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value that flows through the graph; `shape` has the batch axis first, unknown sizes are None."""

    number: int
    shape: Shape
    dtype: str


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """Stands for the k-th input tensor of a call inside its recorded arguments."""

    position: int


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """Shape and dtype of one variable of a layer; never its values."""

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of a layer or operation.

    Attributes:
        name: unique in the graph: the layer's path, with `#k` for the k-th further call.
        layer: path of the layer object, shared by all its calls; the first path if there are several.
        cls: class of the layer or operation.
        inputs, outputs: tensors, in the order in which Keras flattens them.
        config: the layer's own configuration.
        arguments: (args, kwargs) of the call, tensors replaced by `TensorRef`.
        weights: name of each variable (relative to the layer) and its shape.
        readable: False for an operation that cannot say its configuration.
    """

    name: str
    layer: str
    cls: type
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    config: Mapping[str, Any]
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]]
    weights: Mapping[str, WeightSpec]
    readable: bool = True

    @property
    def kind(self) -> str:
        return self.cls.__name__


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model as calls in topological order.

    Attributes:
        shared: pairs of tensors that enter the same sub-model in different calls.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shared: tuple[tuple[Tensor, Tensor], ...]


def read(model: keras.Model) -> Graph:
    """Reads a Functional or built Sequential model, nested models included; a Keras 2 model is converted.

    Raises:
        ModelError: not a Keras model, a subclassed or unbuilt model, or a layer without a configuration.
    """
    model = modern(model)
    require_functional(model)
    return _Reader(model).graph


class _Reader:
    """Walks the model once; nested models are walked at each of their calls."""

    def __init__(self, model: keras.Model) -> None:
        self._nodes: list[Node] = []
        self._num_tensors = 0
        self._num_calls: dict[str, int] = {}
        self._paths: dict[int, str] = {}  # layer object -> the first path it was met under
        self._first_entry: dict[int, list[Tensor]] = {}  # sub-model -> what its first call was given
        self._shared: list[tuple[Tensor, Tensor]] = []
        self._configs: dict[int, Mapping[str, Any] | None] = {}
        functional = as_functional(model)
        assert functional is not None
        env: dict[int, Tensor] = {}
        self._walk(functional, "", env, respecify=False)
        self.graph = Graph(
            name=model.name,
            nodes=tuple(self._nodes),
            inputs=tuple(env[id(x)] for x in functional.inputs),
            outputs=tuple(env[id(x)] for x in functional.outputs),
            shared=tuple(self._shared),
        )

    def _walk(self, functional: keras.Model, prefix: str, env: dict[int, Tensor], respecify: bool) -> None:
        for node in calls(functional):
            if node.is_input:
                if id(node.outputs[0]) not in env:  # inside a nested model the caller has filled it in
                    self._add(node, prefix, env, respecify)
                continue
            inner = as_functional(node.operation)
            if inner is None:
                self._add(node, prefix, env, respecify)
            else:
                self._enter(node, inner, prefix, env)

    def _enter(self, node: Any, inner: keras.Model, prefix: str, env: dict[int, Tensor]) -> None:
        given = [env[id(x)] for x in entering(node, inner)]
        first = self._first_entry.setdefault(id(node.operation), given)
        if first is not given:
            self._shared += zip(first, given, strict=True)
        inner_env = {id(x): tensor for x, tensor in zip(inner.inputs, given, strict=True)}
        # A model built for any image size knows its sizes only where it is called.
        respecify = any(tensor.shape[1:] != x.shape[1:] for x, tensor in zip(inner.inputs, given, strict=True))
        self._walk(inner, f"{prefix}{node.operation.name}/", inner_env, respecify)
        for outside, inside in zip(node.outputs, inner.outputs, strict=True):
            env[id(outside)] = inner_env[id(inside)]

    def _add(self, node: Any, prefix: str, env: dict[int, Tensor], respecify: bool) -> None:
        operation = node.operation
        layer = self._paths.setdefault(id(operation), f"{prefix}{operation.name}")
        count = self._num_calls[layer] = self._num_calls.get(layer, 0) + 1
        tensors = node.arguments.keras_tensors
        specs = _specified(node, env) if respecify and tensors else node.outputs
        for x, spec in zip(node.outputs, specs, strict=True):
            env[id(x)] = Tensor(self._num_tensors, tuple(spec.shape), keras.backend.standardize_dtype(x.dtype))
            self._num_tensors += 1
        config = self._config(operation, layer)
        self._nodes.append(
            Node(
                name=layer if count == 1 else f"{layer}#{count}",
                layer=layer,
                cls=type(operation),
                inputs=tuple(env[id(x)] for x in tensors),
                outputs=tuple(env[id(x)] for x in node.outputs),
                config=config or {},
                arguments=_with_references(node),
                weights={
                    name: WeightSpec(tuple(v.shape), keras.backend.standardize_dtype(v.dtype))
                    for name, v in named_weights(operation).items()
                },
                readable=config is not None,
            )
        )

    def _config(self, operation: Any, layer: str) -> Mapping[str, Any] | None:
        if id(operation) not in self._configs:
            try:
                self._configs[id(operation)] = operation.get_config()
            except Exception as error:
                if isinstance(operation, keras.layers.Layer):
                    raise ModelError(
                        f"Layer '{layer}' ({type(operation).__name__}) has no usable get_config(), so it cannot be "
                        f"rebuilt: {error}. Implement get_config() and from_config()."
                    ) from error
                self._configs[id(operation)] = None  # a bare operation is copied, not configured
        return self._configs[id(operation)]


def _specified(node: Any, env: Mapping[int, Tensor]) -> list[Any]:
    """What the call returns for the shapes it really gets."""
    given = {
        id(x): keras.KerasTensor(env[id(x)].shape, dtype=x.dtype, sparse=x.sparse) for x in node.arguments.keras_tensors
    }
    args, kwargs = node.arguments.fill_in(given)
    return keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))


def _with_references(node: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    position = iter(range(len(node.arguments.keras_tensors)))
    return node.arguments.convert(lambda x: TensorRef(next(position)) if isinstance(x, keras.KerasTensor) else x)
