"""Reads a Keras model into a flat graph of calls.

This is the only module that touches private attributes of Keras graphs. A node is a *call*, not a layer: a layer used
twice gives two nodes with the same `layer`. Nested models dissolve: their layers appear under a path such as
`encoder/conv1`, and only the path remembers them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import ModelError

Shape = tuple[int | None, ...]


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
    """Reads a Functional or built Sequential model, nested models included.

    Raises:
        ModelError: not a Keras 3 model, a subclassed or unbuilt model, or a layer without a configuration.
    """
    require_functional(model)
    return _Reader(model).graph


def require_functional(model: Any) -> None:
    """Raises ModelError unless `model` is a Functional or built Sequential Keras 3 model."""
    if not isinstance(model, keras.Model):
        found = f"{type(model).__module__}.{type(model).__name__}"
        hint = ""
        if found.startswith(("tf_keras.", "tensorflow.python.keras", "keras.engine")):
            hint = " This is a Keras 2 model: save it as .h5 or .keras and load it with Keras 3."
        elif isinstance(model, (str, bytes)) or hasattr(model, "__fspath__"):
            hint = " Load the file first: keras.models.load_model(path)."
        raise ModelError(f"A Keras 3 model was expected, got {found}.{hint}")
    if isinstance(model, keras.Sequential):
        if as_functional(model) is None:
            raise ModelError(
                f"Sequential model '{model.name}' is not built, so its shapes are unknown. "
                "Start it with keras.Input(shape) or call model.build(input_shape) first."
            )
    elif not _is_functional(model):
        raise ModelError(
            f"Model '{model.name}' is a subclassed model ({type(model).__name__}): its own call() cannot be read as "
            "a graph. Write it with the Functional API: keras.Model(inputs, outputs)."
        )


def as_functional(model: Any) -> keras.Model | None:
    """The Functional graph behind a Functional or built Sequential model; None for anything else."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None) if type(model).call is keras.Sequential.call else None
    return model if _is_functional(model) else None


def _is_functional(model: Any) -> bool:
    """A graph and nothing but: a subclass with a `call` of its own may do anything around it."""
    graph = isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth") and hasattr(model, "_inputs_struct")
    return graph and type(model).call.__module__.startswith("keras.src.models.")


def calls(functional: keras.Model) -> Iterator[Any]:
    """Keras' own nodes of a Functional model in topological order, inputs first."""
    by_depth: dict[int, list[Any]] = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from by_depth[depth]


def structures(functional: keras.Model) -> tuple[Any, Any]:
    """The (possibly nested) structures in which the model takes its inputs and returns its outputs."""
    return functional._inputs_struct, functional._outputs_struct


def new_input(x: Any, shape: Shape) -> Any:
    """An input tensor like `x`, of another shape; its layer keeps its name too, which may be another one."""
    layer = x._keras_history.operation
    options = {"optional": True} if getattr(layer, "optional", False) else {}
    tensor = keras.Input(batch_shape=shape, dtype=x.dtype, name=layer.name, sparse=x.sparse, **options)
    tensor.name = x.name
    return tensor


def entering(node: Any, inner: keras.Model) -> list[Any]:
    """The tensors given to a nested model by a call of it, in the order of its own inputs."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    given = args[0] if args else kwargs.get("inputs")
    if isinstance(given, dict) and not isinstance(structures(inner)[0], dict):
        return [given[x.name] for x in inner.inputs]
    tensors = list(keras.tree.flatten(given))
    if len(tensors) != len(inner.inputs):
        raise ModelError(
            f"Nested model '{node.operation.name}' has {len(inner.inputs)} inputs but is called with "
            f"{len(tensors)} tensors. Pass them in the structure of its inputs."
        )
    return tensors


def compile_settings(model: keras.Model) -> dict[str, Any]:
    """The arguments `compile` was given, as the user's own objects."""
    return dict(model._compile_config.config)


def copy_operation(operation: Any) -> Any:
    """A copy of a stateless `keras.ops` operation that shares no graph history with the original."""
    clone = object.__new__(type(operation))  # copy.copy would serialise it
    clone.__dict__.update(operation.__dict__)
    clone._inbound_nodes, clone._outbound_nodes = [], []
    return clone


def copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A new Lambda around the same function: it is in memory already, so nothing untrusted is unpacked."""
    config = {k: v for k, v in layer.get_config().items() if k in ("name", "trainable", "dtype", "arguments")}
    return keras.layers.Lambda(layer.function, output_shape=layer._output_shape, mask=layer.mask, **config)


def named_weights(layer: Any) -> dict[str, Any]:
    """The layer's variables under names relative to the layer, in Keras' order.

    Random seeds are not weights. Two variables of the same name get a numbered suffix.
    """
    named: dict[str, Any] = {}
    for variable in getattr(layer, "weights", ()):
        _, inside, name = variable.path.rpartition(f"{layer.name}/")
        name = name if inside else variable.name  # the layer was renamed after it was built
        number = 1
        while name in named:
            number += 1
            name = f"{name.partition(':')[0]}:{number}"
        named[name] = variable
    return named


def layers_by_path(model: keras.Model) -> dict[str, Any]:
    """Every leaf layer and operation of the model under its first path; nested models are opened, not listed."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(functional: keras.Model, prefix: str) -> None:
        for node in calls(functional):
            operation = node.operation
            inner = as_functional(operation)
            if inner is not None:
                visit(inner, f"{prefix}{operation.name}/")
            elif id(operation) not in seen:
                seen.add(id(operation))
                found[f"{prefix}{operation.name}"] = operation

    functional = as_functional(model)
    assert functional is not None
    visit(functional, "")
    return found


def weight_values(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Layer path -> weight name -> values."""
    return {
        path: {name: np.asarray(keras.ops.convert_to_numpy(v)) for name, v in named_weights(layer).items()}
        for path, layer in layers_by_path(model).items()
    }


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
