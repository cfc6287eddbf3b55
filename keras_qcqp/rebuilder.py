"""Builds models: the smaller one of a plan, and the masked original it must equal.

The law: `rebuild(model, plan)` equals `masked(model, plan)`, the original in which dropped channels are zeroed in the
kernels of their consumers, and where they enter an addition whose sum has channels of its own. (Zeroing them in their
producers is not the same: a batch norm's shift revives them.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp import graph, keras_graph
from keras_qcqp.carry_over import copy_compile, copy_trainable, custom_objects
from keras_qcqp.channels import Axis, Lookup, Spec, substitute
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.errors import ModelError, PlanError
from keras_qcqp.legacy import modern
from keras_qcqp.plan import LayerPlan, Plan
from keras_qcqp.plan_check import require_match
from keras_qcqp.residual.realign import Adapter, aligned, zeroed

Values = dict[str, dict[str, np.ndarray]]
Edits = Mapping[str, Mapping[str, Any]]


def rebuild(model: keras.Model, plan: Plan) -> keras.Model:
    """Builds the smaller model of a plan; the given model is not changed, one of Keras 2 is converted.

    Names, dtypes, regularisers, trainable flags, nesting and compile settings stay; an optimizer starts afresh, since
    its state belongs to weights that no longer exist.

    Raises:
        ModelError: the model cannot be read, or a layer cannot be built from its configuration.
        PlanError: the plan was made for another model (names the first difference) or contradicts itself.
    """
    model = modern(model)
    coupling = _checked_coupling(model, plan)
    specs = {node.layer: coupling.specs[node.name] for node in coupling.first_calls()}
    values = keras_graph.weight_values(model)
    for path, layer_plan in plan.layers.items():
        values[path] = _sliced(values[path], specs[path], layer_plan)
    edits = {path: _edited(specs[path].config, p) for path, p in plan.layers.items()}
    arguments = {path: _edited(specs[path].arguments, p) for path, p in plan.layers.items()}
    try:
        return _build(model, values, _Copier(edits, arguments, _adapters(coupling, plan, aligned)))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"Model '{model.name}' could not be rebuilt with this plan: {error}") from error


def _checked_coupling(model: keras.Model, plan: Plan) -> Coupling:
    if not isinstance(plan, Plan):
        raise PlanError(f"A Plan was expected, got {type(plan).__name__}. Read one with Plan.load or Plan.from_json.")
    coupling = couple(graph.read(model), residual=plan.residual)
    require_match(plan, coupling)
    return coupling


def masked(model: keras.Model, plan: Plan) -> keras.Model:
    """A copy of the model, same size, with dropped channels zeroed in the kernels and union additions that read them.

    Raises:
        ModelError, PlanError: as `rebuild`.
    """
    model = modern(model)
    coupling = _checked_coupling(model, plan)
    values = keras_graph.weight_values(model)
    for node in coupling.first_calls():
        layer_plan = plan.layers.get(node.layer)
        if layer_plan is None:
            continue
        for name, axes in coupling.specs[node.name].weights.items():
            reads = [number for number, axis in enumerate(axes) if axis is not None and axis.side == "in"]
            if reads and len([a for a in axes if a is not None]) > 1:  # a kernel that mixes
                values[node.layer][name] = _zeroed(values[node.layer][name], reads[0], axes[reads[0]], layer_plan)
    return _build(model, values, _Copier({}, {}, _adapters(coupling, plan, zeroed)))


def _adapters(coupling: Coupling, plan: Plan, make: Callable[..., Adapter]) -> dict[str, list[Adapter]]:
    """Path of each union addition -> what to do to each of its operands before they are added."""
    nodes = {node.name: node for node in coupling.graph.nodes}
    found = {}
    for join in coupling.joins:
        node = nodes[join.node]
        axes = [x.axis for x in coupling.inputs[join.node]]
        found[node.layer] = [make(plan[node.layer], operand, axis) for operand, axis in enumerate(axes)]
    return found


def _select(axis: Axis, plan: LayerPlan) -> np.ndarray:
    index, size = (plan.in_index, plan.in_size) if axis.side == "in" else (plan.out_index, plan.out_size)
    return axis.select(np.asarray(index[axis.port], np.int64), size[axis.port])


def _edited(entries: Mapping[str, Any], plan: LayerPlan) -> dict[str, Any]:
    """Configuration entries or call arguments with the new widths and places in them."""
    return {
        key: value.renumber(plan.in_index[0], plan.out_index[0])
        if isinstance(value, Lookup)
        else substitute(value, lambda axis: len(_select(axis, plan)))
        for key, value in entries.items()
    }


def _sliced(values: Mapping[str, np.ndarray], spec: Spec, plan: LayerPlan) -> dict[str, np.ndarray]:
    sliced = {}
    for name, value in values.items():
        for number, axis in enumerate(spec.weights[name]):
            if axis is not None:
                value = np.take(value, _select(axis, plan), axis=number)
        sliced[name] = value
    return sliced


def _zeroed(value: np.ndarray, number: int, axis: Axis | None, plan: LayerPlan) -> np.ndarray:
    assert axis is not None
    kept = np.zeros(value.shape[number], bool)
    kept[_select(axis, plan)] = True
    shape = [1] * value.ndim
    shape[number] = -1
    return np.where(kept.reshape(shape), value, np.zeros((), value.dtype))


def _build(model: keras.Model, values: Values, copier: _Copier) -> keras.Model:
    """Copies a model and sets the given weights."""
    clone = copier.model(model, "", None)
    clone_layers = keras_graph.layers_by_path(clone)
    for path, named in values.items():
        layer = clone_layers[path]
        for value, variable in zip(named.values(), keras_graph.named_weights(layer).values(), strict=True):
            variable.assign(value)  # in Keras' order; names may be automatic
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    copy_trainable(model, clone)
    copy_compile(model, clone)
    return clone


class _Copier:
    """Replays a model's calls on copies of its layers, nested models included."""

    def __init__(self, edits: Edits, arguments: Edits, adapters: Mapping[str, Sequence[Adapter]]) -> None:
        self._edits, self._arguments, self._adapters = edits, arguments, adapters
        self._copies: dict[int, Any] = {}  # an object used twice is copied once

    def model(self, model: keras.Model, prefix: str, entries: list[Any] | None) -> keras.Model:
        """Copies a model; `entries` are the tensors that will enter it, None at the top level."""
        functional = keras_graph.as_functional(model)
        assert functional is not None
        tensors = {}
        for k, x in enumerate(functional.inputs):
            shape = x.shape if entries is None else _entry_shape(x.shape, entries[k].shape)
            tensors[id(x)] = keras_graph.new_input(x, shape)
        if isinstance(model, keras.Sequential):
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

    def _sequential(self, model: keras.Sequential, prefix: str, entry: Any) -> list[Any]:
        layers, x = [], entry
        for layer in model.layers:
            layers.append(self._operation(layer, prefix, [x]))
            x = layers[-1](x)
        return layers

    def _replay(self, node: Any, prefix: str, tensors: dict[int, Any], names: set[str]) -> None:
        inner = keras_graph.as_functional(node.operation)
        entries = node.input_tensors if inner is None else keras_graph.entering(node, inner)
        operation = self._operation(node.operation, prefix, [tensors[id(x)] for x in entries])
        path = f"{prefix}{node.operation.name}"
        given = {id(x): tensors[id(x)] for x in node.arguments.keras_tensors}
        for k, (x, adapt) in enumerate(zip(node.arguments.keras_tensors, self._adapters.get(path, ()), strict=False)):
            given[id(x)] = adapt(tensors[id(x)], _unused(f"{node.operation.name}_align_{k}", names))
        args, kwargs = node.arguments.fill_in(given)
        if self._arguments.get(path):
            bound = inspect.signature(node.operation.call).bind(*args, **kwargs)
            bound.arguments.update(self._arguments[path])
            args, kwargs = bound.args, bound.kwargs
        if (
            inner is not None
            and isinstance(args and args[0], dict)
            and not isinstance(keras_graph.structures(inner)[0], dict)
        ):
            # Keras matches names when it computes, but takes alphabetical order when it infers shapes.
            args = ([tensors[id(x)] for x in entries], *args[1:])
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        tensors.update((id(old), new) for old, new in zip(node.outputs, outputs, strict=True))

    def _operation(self, operation: Any, prefix: str, entries: list[Any]) -> Any:
        if id(operation) not in self._copies:
            self._copies[id(operation)] = self._copy(operation, prefix, entries)
        return self._copies[id(operation)]

    def _copy(self, operation: Any, prefix: str, entries: list[Any]) -> Any:
        path = f"{prefix}{operation.name}"
        inner = keras_graph.as_functional(operation)
        if inner is not None:
            return self.model(operation, f"{path}/", entries)
        edits = self._edits.get(path, {})
        if isinstance(operation, keras.layers.Lambda):
            return keras_graph.copy_lambda(operation)
        if not isinstance(operation, keras.layers.Layer) and not edits:
            return keras_graph.copy_operation(operation)  # its arguments need not be serialisable
        return _from_config(operation, path, edits)


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
        with keras.saving.custom_object_scope(custom_objects(layer)):
            config = {key: _initializer(key, value) for key, value in layer.get_config().items()}
            return type(layer).from_config({**config, **edits})
    except Exception as error:
        raise ModelError(
            f"Layer '{path}' ({type(layer).__name__}) cannot be rebuilt from its get_config(): {error}. "
            "Its from_config() must accept what its get_config() returns."
        ) from error


def _initializer(key: str, value: Any) -> Any:
    """An initializer that holds an array of the old shape cannot start the new one; weights are set anyway."""
    if key.endswith("initializer") and isinstance(value, dict) and value.get("class_name") == "Constant":
        constant = value.get("config", {}).get("value")
        return value if isinstance(constant, (int, float)) else "zeros"
    return value
