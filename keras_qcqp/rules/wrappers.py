"""Layers around another layer, which is followed by its own rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Call, Channels, Frozen, Hidden, Macs, Rule, Spec, Values
from keras_qcqp.graph import Node, Tensor, TensorRef
from keras_qcqp.layer_plan import LayerPlan
from keras_qcqp.rules.cells import is_from_keras, rewritten
from keras_qcqp.rules.masks import hold_masks

Find = Callable[[Node], Rule]
"""The rule of a node; raises Frozen when there is none."""


def rules(find: Find) -> dict[type, Rule]:
    """The wrappers' rules, which look up those of what they wrap."""

    def time_distributed(call: Call) -> Spec:
        """TimeDistributed: a layer at every step, which does not see the axis of time."""
        (out,) = call.node.outputs[:1]
        if call.inputs[0].axis == 1:
            raise Frozen("the channels lie along the axis of time")
        if len(call.node.outputs) > 1 or len(out.shape) < 3:
            raise Frozen("TimeDistributed around a layer without channels, or with several outputs")
        hold_masks(call)
        inner, spec = _inside(call, find, hidden_axes=1)
        outputs = tuple(Channels(x.ids, x.axis + 1) for x in spec.outputs)
        return _wrapped(
            call, inner, dataclasses.replace(spec, outputs=outputs, macs=_repeated(spec.macs, out.shape[1]))
        )

    def spectral_normalization(call: Call) -> Spec:
        """SpectralNormalization: in inference the kernel, as it is stored, is the normalised one."""
        inner, spec = _inside(call, find, hidden_axes=0)
        if spec.slicer:
            raise Frozen(f"SpectralNormalization around {inner.kind}, whose rule makes new weights in its own way")
        kernel = spec.weights.get("kernel", spec.weights.get("embeddings", (None,)))
        wrapped = _wrapped(call, inner, spec)
        return dataclasses.replace(wrapped, weights={**wrapped.weights, "vector_u": (None, kernel[-1])})

    return {
        keras.layers.TimeDistributed: time_distributed,
        keras.layers.SpectralNormalization: spectral_normalization,
    }


def _inside(call: Call, find: Find, hidden_axes: int) -> tuple[Node, Spec]:
    """The wrapped layer as a node of its own, and what its rule says."""
    inner = _inner_node(call.node, hidden_axes)
    return inner, find(inner)(_InnerCall(call, inner, hidden_axes))


def _inner_node(node: Node, hidden_axes: int) -> Node:
    serialised = node.config["layer"]
    prefix = f"{serialised['config']['name']}/"

    def seen(tensor: Tensor) -> Tensor:
        return dataclasses.replace(tensor, shape=(tensor.shape[0], *tensor.shape[1 + hidden_axes :]))

    return dataclasses.replace(
        node,
        cls=_class_of(serialised),
        inputs=tuple(map(seen, node.inputs[:1])),
        outputs=tuple(map(seen, node.outputs)),
        config=serialised["config"],
        arguments=((TensorRef(0),), {}),
        weights={name.removeprefix(prefix): w for name, w in node.weights.items() if name.startswith(prefix)},
    )


def _class_of(serialised: Mapping[str, Any]) -> type:
    """The class of a serialised layer.

    Raises:
        Frozen: it is a model, or a class that Keras does not know by name.
    """
    name = serialised["class_name"]
    if name in ("Functional", "Sequential", "Model"):
        raise Frozen(f"a wrapped model ({name}) is not followed; wrap its layers one by one")
    found = keras.saving.get_registered_object(serialised.get("registered_name") or "")
    if found is None and is_from_keras(serialised, name):  # a namesake of the user's may do anything
        found = getattr(keras.layers, name, None)
    if not isinstance(found, type):
        raise Frozen(
            f"wrapped layer class {name} is not registered; keras.saving.register_keras_serializable does that"
        )
    return found


class _InnerCall:
    """A call as the wrapped layer sees it: without the axes that the wrapper hides behind the batch axis."""

    def __init__(self, outer: Call, node: Node, hidden_axes: int) -> None:
        self._outer, self._hidden, self.node, self.group_conv = outer, hidden_axes, node, outer.group_conv
        self.inputs = tuple(Channels(x.ids, max(x.axis - hidden_axes, 0)) for x in outer.inputs[:1])

    def fresh(self, port: int = 0, axis: int | None = None) -> Channels:
        axis = len(self.node.outputs[port].shape) - 1 if axis is None else axis
        ids = self._outer.fresh(port, axis + self._hidden if axis > 0 else 0).ids
        return Channels(ids, axis)

    def hide(self, name: str, size: int) -> Hidden:
        return self._outer.hide(name, size)

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        self._outer.tie(a, b)

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        self._outer.freeze(ids, reason)

    def add(self, operands: Sequence[Channels]) -> Channels:
        raise Frozen("an addition inside a wrapper")

    def fixed(self, port: int = 0) -> Channels:
        out = self.fresh(port)
        self.hold(out.ids)
        return out if len(out) else Channels(out.ids, 0)

    def hold(self, ids: np.ndarray) -> None:
        self._outer.hold(ids)

    def is_fixed(self, x: Channels) -> bool:
        return self._outer.is_fixed(x)

    def zeros(self, ids: np.ndarray) -> None:
        self._outer.zeros(ids)


def _repeated(macs: Macs, steps: int | None) -> Macs:
    return tuple((None if c is None or steps is None else c * steps, axes) for c, axes in macs)


def _wrapped(call: Call, inner: Node, spec: Spec) -> Spec:
    """What the wrapped layer's rule said, in the wrapper's words.

    Raises:
        Frozen: the layer's output would need a correction, for which there is no place inside the wrapper.
    """
    if spec.after:
        raise Frozen(f"{call.node.kind} around {inner.kind}, whose output needs a correction; take it out of there")
    prefix, serialised = f"{inner.config['name']}/", call.node.config["layer"]
    # A serialised layer remembers the shapes for which it was built.
    changes = bool(spec.edits or inner.weights)

    def slicer(values: Values, plan: LayerPlan) -> Values:
        assert spec.slicer is not None
        inside = spec.slicer({n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}, plan)
        return {n: inside.get(n.removeprefix(prefix), v) for n, v in values.items()}

    return dataclasses.replace(
        spec,
        weights={f"{prefix}{name}": axes for name, axes in spec.weights.items()},
        config={"layer": rewritten(serialised, spec.config)} if changes else {},
        reads={f"{prefix}{name}": axes for name, axes in spec.reads.items()},
        slicer=slicer if spec.slicer else None,
    )
