"""Attention: heads, and what they compare and carry along, are widths inside the layer.

Scores are sums of products over the dimensions of keys, so one of these counts no more where it is zero in the query;
heads and dimensions of values count no more where the output's kernel does not read them. Keras divides scores by the
root of the number of dimensions that there are, so the weights of the query make up for those that there were.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Axis, Call, Channels, Frozen, Hidden, In, Inside, Macs, Out, Rule, Spec, Values
from keras_qcqp.graph import TensorRef
from keras_qcqp.layer_plan import LayerPlan
from keras_qcqp.rules.einsum import product
from keras_qcqp.slicing import select, take

Slicer = Callable[[Values, LayerPlan], Values]

_READS = {"query/kernel": (2,), "query/bias": (1,), "attention_output/kernel": (0, 1)}
"""Where dimensions of the keys, and heads and dimensions of the values, are read."""


def multi_head(call: Call) -> Spec:
    """MultiHeadAttention: its heads, the dimensions of keys and queries, and those of values."""
    config, (q, v, k) = call.node.config, _ports(call)
    heads = call.hide("heads", config["num_heads"])
    hidden = (heads, call.hide("key_dim", config["key_dim"]), call.hide("value_dim", config["value_dim"]))
    out = call.fresh()
    between = tuple(config["output_shape"] or (0,))[:-1]  # axes of the output between positions and channels
    axes = _Projections(call, (q, v, k), (Inside(0), Inside(0)), (Inside(1), Inside(2)), between)
    _free_of_masks(call, heads, (q, v, k), config["attention_axes"])
    _keep_narrow(call, hidden)
    return Spec(
        (out, *_scores(call, heads, Inside(0), q)),
        axes.weights,
        {
            "num_heads": Inside(0),
            "key_dim": Inside(1),
            "value_dim": Inside(2),
            "output_shape": (*between, Out()),
        },
        axes.macs(config["attention_axes"]),
        hidden=hidden,
        reads=_READS,
        slicer=_rescaled(axes.weights, Inside(1)),
    )


def grouped_query(call: Call) -> Spec:
    """GroupQueryAttention: several heads of the query share one of keys and values, every one of these equally many.

    Either shared heads go, with all that share them, or the same heads of each share: what there is more of. Keys and
    values have one number of dimensions. The output is as wide as the query, and so must the values given be.
    """
    config, (q, v, k) = call.node.config, _ports(call)
    shared = config["num_key_value_heads"]
    share = config["num_query_heads"] // shared
    heads = call.hide("key_value_heads", shared) if shared >= share else call.hide("query_heads", share)
    of_query = Inside(0, repeat=share) if shared >= share else Inside(0, tile=shared)
    of_keys = Inside(0) if shared >= share else None
    hidden = (heads, call.hide("head_dim", config["head_dim"]))
    out = call.fresh()
    for x in (call.inputs[q], call.inputs[v]):
        call.tie(out.ids, x.ids)
    axes = _Projections(call, (q, v, k), (of_query, of_keys), (Inside(1), Inside(1)), ())
    _free_of_masks(call, heads, (q, v, k), (1,))
    _keep_narrow(call, hidden)
    return Spec(
        (out, *_scores(call, heads, of_query, q)),
        axes.weights,
        {
            "num_query_heads": of_query,
            "num_key_value_heads": of_keys or shared,
            "head_dim": Inside(1),
        },
        axes.macs((1,)),
        hidden=hidden,
        reads=_READS,
        slicer=_rescaled(axes.weights, Inside(1)),
    )


class _Projections:
    """The kernels around an attention: what each of their axes follows, and the work they are.

    Args:
        ports: numbers of the query, value and key.
        heads: axes of the query's heads, and of those of keys and values.
        dims: axes of the dimensions of keys, and of those of values.
        between: sizes of the output's axes before its channels that come from the kernel too.
    """

    def __init__(
        self,
        call: Call,
        ports: tuple[int, int, int],
        heads: tuple[Axis, Axis | None],
        dims: tuple[Axis, Axis],
        between: tuple[int, ...],
    ) -> None:
        self._node, self._ports, self._between = call.node, ports, between
        query, value, key = (_read_last(call, port) for port in ports)
        (of_query, of_keys), (key_dim, value_dim) = heads, dims
        kernels: dict[str, tuple[Axis | None, ...]] = {
            "query": (query, of_query, key_dim),
            "key": (key, of_keys, key_dim),
            "value": (value, of_keys, value_dim),
            "gate": (query, of_query, value_dim),
            "attention_output": (of_query, value_dim, *(None,) * len(between), Out()),
        }
        biases = {name: axes[1:] for name, axes in kernels.items()} | {
            "attention_output": kernels["attention_output"][2:]
        }
        self.weights: Mapping[str, tuple[Axis | None, ...]] = {
            **{f"{name}/kernel": axes for name, axes in kernels.items()},
            **{f"{name}/bias": axes for name, axes in biases.items()},
        }
        self._attended = ((of_query, key_dim), (of_query, value_dim))

    def macs(self, attention_axes: Any) -> Macs:
        """Projections, then for each pair of positions that may attend: the score, and the sum over values."""
        q, v, k = (self._node.inputs[port].shape for port in self._ports)
        spots = {"key": k, "value": v}
        found = []
        for name, weight in self._node.weights.items():
            axes = self.weights.get(name)
            if axes and name.endswith("/kernel"):
                fixed = [size for size, axis in zip(weight.shape, axes, strict=False) if axis is None]
                positions = spots.get(name.partition("/")[0], q)[1:-1]
                found.append((product((*positions, *fixed)), tuple(a for a in axes if a is not None)))
        pairs = product((*q[1:-1], *(v[axis] for axis in attention_axes)))
        return (*found, *((pairs, axes) for axes in self._attended))


def _ports(call: Call) -> tuple[int, int, int]:
    """Which inputs of the call are query, value and key."""
    given = _arguments(call)
    query, value = given["query"], given["value"]
    key = value if given.get("key") is None else given["key"]
    return _positions(call, [query, value, key])


def _arguments(call: Call) -> Mapping[str, Any]:
    args, kwargs = call.node.arguments
    layer_class: Any = call.node.cls
    return inspect.signature(layer_class.call).bind(None, *args, **kwargs).arguments


def _positions(call: Call, given: list[Any]) -> tuple[int, int, int]:
    if not all(isinstance(x, TensorRef) for x in given):
        raise Frozen(f"{call.node.kind} is called on a constant; give it a layer's output")
    query, value, key = (x.position for x in given)
    return query, value, key


def _read_last(call: Call, port: int) -> Axis | None:
    """The kernel axis that reads an input's last axis; None, and all kept, when its channels lie along another."""
    x, rank = call.inputs[port], len(call.node.inputs[port].shape)
    if x.axis == rank - 1:
        return In(port)
    call.freeze(x.ids, f"{call.node.kind} mixes along axis {rank - 1}, the channels lie along axis {x.axis}")
    return None


def _free_of_masks(call: Call, heads: Hidden, ports: tuple[int, ...], attention_axes: Any) -> None:
    """Masks name positions, which stay; one with values of its own for each head keeps the heads too."""
    _keep_others(call, ports)
    mask = _arguments(call).get("attention_mask")
    if mask is None:
        return
    shape = call.node.inputs[mask.position].shape if isinstance(mask, TensorRef) else np.shape(mask)
    rank, attended = len(call.node.inputs[ports[0]].shape), len(attention_axes)
    if len(shape) == rank + attended and shape[rank - attended - 1] != 1:
        call.freeze(heads.ids, "attention_mask has values of its own for each head; give it one for all, of size 1")


def _keep_others(call: Call, ports: tuple[int, ...]) -> None:
    for port, x in enumerate(call.inputs):
        if port not in ports:
            call.freeze(x.ids, "a mask has a place for each position, which stays")


def _keep_narrow(call: Call, hidden: tuple[Hidden, ...]) -> None:
    """With a single dimension left, Keras for TensorFlow adds biases of heads along positions, if there are as many."""
    numbers = [call.node.weights[f"{name}/bias"].shape[0] for name in ("query", "key") if call.node.config["use_bias"]]
    if any(2 <= (x.shape[1] or 0) <= max(numbers, default=0) for x in call.node.inputs):
        for h in hidden[1:]:
            call.freeze(
                h.ids, f"{h.name} of 1 would have Keras add biases along positions, which are no more than heads"
            )


def _scores(call: Call, heads: Hidden, axis: Axis, query: int) -> tuple[Channels, ...]:
    """The scores, where the call returns them: their channels are the heads."""
    if len(call.node.outputs) == 1:
        return ()
    if len(call.node.inputs[query].shape) == 3:
        return (Channels(axis.follow(heads.ids), 1),)
    call.freeze(heads.ids, "scores of heads are returned for positions of several axes; their shape is not known")
    return (_kept(call, 1),)


def _kept(call: Call, port: int) -> Channels:
    scores = call.fresh(port)
    call.freeze(scores.ids, "attention scores have a place for each position, which stays")
    return scores


def _rescaled(weights: Mapping[str, tuple[Axis | None, ...]], dim: Axis) -> Slicer:
    """Takes what stays; then q / sqrt(old) = (q sqrt(new / old)) / sqrt(new), of which Keras does the last part."""

    def slicer(values: Values, plan: LayerPlan) -> Values:
        factor = math.sqrt(len(select(dim, plan)) / plan.hidden_size[dim.port])
        return {
            name: (value * factor).astype(value.dtype) if name.startswith("query/") else value
            for name, value in take(values, weights, plan).items()
        }

    return slicer


def plain(call: Call) -> Spec:
    """Attention and AdditiveAttention, without kernels: query and key share their channels, the output has the value's.

    A product is nothing where the query is zero; tanh(query + key) where both are.
    """
    node, given = call.node, _arguments(call)["inputs"]
    q, v, k = ports = _positions(call, [*given[:2], given[2] if len(given) > 2 else given[1]])
    for port in ports:
        if call.inputs[port].axis != len(node.inputs[port].shape) - 1:
            raise Frozen(f"{node.kind} works along the last axis, the channels lie along axis {call.inputs[port].axis}")
    _keep_others(call, ports)
    call.tie(call.inputs[q].ids, call.inputs[k].ids)
    additive = node.cls is keras.layers.AdditiveAttention
    multiplies = not additive and node.config["score_mode"] == "dot"
    out = Channels(call.inputs[v].ids, len(node.outputs[0].shape) - 1)
    pairs = product((*node.inputs[q].shape[1:-1], node.inputs[v].shape[-2]))
    return Spec(
        (out, *(_kept(call, port) for port in range(1, len(node.outputs)))),
        {"scale": (In(q),) if additive else (), "concat_score_weight": ()},
        macs=((pairs, (In(q),)), (pairs, (In(v),))),
        zeroed=(q,) if multiplies else tuple({q, k}),
    )


_L = keras.layers
RULES: dict[type, Rule] = {
    _L.MultiHeadAttention: multi_head,
    **({_L.GroupQueryAttention: grouped_query} if hasattr(_L, "GroupQueryAttention") else {}),
    _L.Attention: plain,
    _L.AdditiveAttention: plain,
}
