"""Builds models: the smaller one of a plan, and the masked original it must equal.

The law: `rebuild(model, plan)` equals `masked(model, plan)`, the original in which dropped channels are zeroed in the
kernels of their consumers, and where they enter an addition whose sum has channels of its own. (Zeroing them in their
producers is not the same: a batch norm's shift revives them.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp import graph, keras_graph
from keras_qcqp.branches.constants import constants
from keras_qcqp.branches.fates import NOTHING, fates
from keras_qcqp.carry_over import copy_compile, copy_trainable
from keras_qcqp.channels import Adapter, Lookup, Sliced, Values, substitute
from keras_qcqp.copier import Changes, copied
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.errors import ModelError, PlanError
from keras_qcqp.legacy import modern
from keras_qcqp.plan import LayerPlan, Plan
from keras_qcqp.plan_check import empties, require_match
from keras_qcqp.residual.realign import aligned, zeroed
from keras_qcqp.slicing import blanked, select, sliced

Weights = Mapping[str, Values]


def rebuild(model: keras.Model, plan: Plan) -> keras.Model:
    """Builds the smaller model of a plan; the given model is not changed, one of Keras 2 is converted.

    Names, dtypes, regularisers, trainable flags, nesting and compile settings stay; an optimizer starts afresh, since
    its state belongs to weights that no longer exist.

    Raises:
        ModelError: the model cannot be read, or a layer cannot be built from its configuration.
        PlanError: the plan was made for another model (names the first difference) or contradicts itself.
    """
    model = modern(model)
    coupling, alive = _checked_coupling(model, plan)
    specs = {node.layer: coupling.specs[node.name] for node in coupling.first_calls()}
    values: dict[str, Values] = dict(keras_graph.weight_values(model))
    fate = fates(coupling, alive) if empties(plan) else NOTHING
    built = {node.layer for node in coupling.graph.nodes if node.name not in fate.absent}
    plans = {path: layer_plan for path, layer_plan in plan.layers.items() if path in built}
    for path, layer_plan in plans.items():
        values[path] = sliced(values[path], specs[path], layer_plan)
    changes = Changes(
        config={path: _edited(specs[path].config, p) for path, p in plans.items()},
        arguments={path: _edited(specs[path].arguments, p) for path, p in plans.items()},
        before=_alignments(coupling, plan, aligned),
        after=_corrections(coupling, plans),
        absent=fate.absent,
        constants=constants(model, coupling, plan, fate),
    )
    try:
        return _build(model, values, changes)
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"Model '{model.name}' could not be rebuilt with this plan: {error}") from error


def duplicate(model: keras.Model, config: Mapping[str, Mapping[str, Any]] | None = None) -> keras.Model:
    """An equal model that shares no layer or variable with the given one; compiled alike, with a fresh optimizer.

    Args:
        config: layer path -> configuration entries that are different.

    Raises:
        ModelError: the model is not Functional or Sequential, or a layer cannot be built from its configuration.
    """
    keras_graph.require_functional(model)
    return _build(model, keras_graph.weight_values(model), Changes(config=config or {}))


def _checked_coupling(model: keras.Model, plan: Plan) -> tuple[Coupling, np.ndarray]:
    if not isinstance(plan, Plan):
        raise PlanError(f"A Plan was expected, got {type(plan).__name__}. Read one with Plan.load or Plan.from_json.")
    coupling = couple(graph.read(model), residual=plan.residual, group_conv=plan.group_conv)
    return coupling, require_match(plan, coupling)


def masked(model: keras.Model, plan: Plan) -> keras.Model:
    """A copy of the model, same size, with dropped channels zeroed in the kernels and union additions that read them.

    Raises:
        ModelError, PlanError: as `rebuild`.
    """
    model = modern(model)
    return blanked_copy(model, _checked_coupling(model, plan)[0], plan)


def blanked_copy(model: keras.Model, coupling: Coupling, plan: Plan) -> keras.Model:
    """The same for a plan that need not be one that can be built: any choice of channels can be zeroed."""
    values = keras_graph.weight_values(model)
    for node in coupling.first_calls():
        layer_plan = plan.layers.get(node.layer)
        if layer_plan is None:
            continue
        values[node.layer] = blanked(values[node.layer], coupling.specs[node.name], layer_plan)
    before = _alignments(coupling, plan, zeroed)
    for node in coupling.first_calls():
        ports, axes = coupling.specs[node.name].zeroed, [x.axis for x in coupling.inputs[node.name]]
        if ports:
            before[node.layer] = {port: zeroed(plan[node.layer], port, axes[port]) for port in ports}
    return _build(model, values, Changes(before=before))


def _corrections(coupling: Coupling, plans: Mapping[str, LayerPlan]) -> dict[str, Adapter]:
    """Path of each call that makes up for dropped channels -> what to do to its output."""
    found = {}
    for node in coupling.first_calls():
        correct = coupling.specs[node.name].after
        adapter = correct(plans[node.layer]) if correct and node.layer in plans else None
        if adapter is not None:
            found[node.layer] = adapter
    return found


def _alignments(coupling: Coupling, plan: Plan, make: Callable[..., Adapter]) -> dict[str, dict[int, Adapter]]:
    """Path of each union addition -> what to do to each of its operands before they are added."""
    nodes = {node.name: node for node in coupling.graph.nodes}
    found = {}
    for join in coupling.joins:
        node = nodes[join.node]
        axes = [x.axis for x in coupling.inputs[join.node]]
        found[node.layer] = {operand: make(plan[node.layer], operand, axis) for operand, axis in enumerate(axes)}
    return found


def _edited(entries: Mapping[str, Any], plan: LayerPlan) -> dict[str, Any]:
    """Configuration entries or call arguments with the new widths and places in them."""
    return {key: _edit(value, plan) for key, value in entries.items()}


def _edit(value: Any, plan: LayerPlan) -> Any:
    if isinstance(value, Lookup):
        return value.renumber(plan.in_index[0], plan.out_index[0])
    if isinstance(value, Sliced):
        return _taken(value, plan)
    return substitute(value, lambda axis: len(select(axis, plan)))


def _taken(constant: Sliced, plan: LayerPlan) -> Any:
    """The array of the same kind (NumPy array or tensor), so that the call computes in the same dtype."""
    values = keras.ops.convert_to_numpy(constant.values) if keras.ops.is_tensor(constant.values) else constant.values
    for number, axis in enumerate(constant.axes):
        if axis is not None:
            values = np.take(values, select(axis, plan), axis=number)
    if keras.ops.is_tensor(constant.values):
        return keras.ops.convert_to_tensor(values, dtype=constant.values.dtype)
    return values


def _build(model: keras.Model, values: Weights, changes: Changes) -> keras.Model:
    """Copies a model and sets the given weights."""
    clone = copied(model, changes)
    clone_layers = keras_graph.layers_by_path(clone)
    for path, named in values.items():
        if not named or (path not in clone_layers and changes.absent):
            continue  # without weights it may have another name: Keras names the mask operations of a Sequential
        layer = clone_layers[path]
        for value, variable in zip(named.values(), keras_graph.named_weights(layer).values(), strict=True):
            variable.assign(value)  # in Keras' order; names may be automatic
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    copy_trainable(model, clone)
    copy_compile(model, clone)
    return clone
