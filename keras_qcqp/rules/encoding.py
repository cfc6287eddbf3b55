"""Layers at the edge of a network: text, categories and signals become numbers; foreign code becomes a layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import NETWORK_INPUT, Call, Channels, Frozen, In, Inside, Rule, Spec
from keras_qcqp.graph import Shape
from keras_qcqp.rules.elementwise import unchanged

_ENCODERS = """CategoryEncoding HashedCrossing Hashing IntegerLookup MelSpectrogram StringLookup
    TextVectorization""".split()
_OPAQUE = {
    "Lambda": "Lambda may do anything; write it with keras.ops on the tensors, or as a layer of your own with a rule",
    "TFSMLayer": "TFSMLayer holds a finished graph that nobody can slice; rebuild that part with Keras layers",
    **dict.fromkeys(
        ["FlaxLayer", "JaxLayer", "TorchModuleWrapper"],
        "code of another framework that nobody can slice; rebuild that part with Keras layers",
    ),
}


def encoder(call: Call) -> Spec:
    """What comes out is, to all layers behind, what the user feeds: never pruned, and not worth a word."""
    for x in call.inputs:
        call.freeze(x.ids, f"{call.node.kind} reads raw data; put it right behind the Input")
    outputs = tuple(call.fresh(port) for port in range(len(call.node.outputs)))
    for out in outputs:
        call.freeze(out.ids, NETWORK_INPUT)
    return Spec(outputs, {name: (None,) * len(w.shape) for name, w in call.node.weights.items()})


def discretization(call: Call) -> Spec:
    """Discretization to bin numbers maps every value on its own; to vectors it encodes."""
    return unchanged(call) if call.node.config["output_mode"] == "int" else encoder(call)


def reversible_embedding(call: Call) -> Spec:
    """ReversibleEmbedding, called with numbers or in reverse: both calls have its width, which is one inside it."""
    (x,), node, config = call.inputs, call.node, call.node.config
    args, kwargs = node.arguments
    reverse = kwargs.get("reverse", args[1] if len(args) > 1 else False)
    width, out = call.hide("width", config["output_dim"]), call.fresh()
    if reverse and x.axis != len(node.inputs[0].shape) - 1:
        raise Frozen(f"{node.kind} in reverse reads the last axis, the channels lie along axis {x.axis}")
    call.tie(width.ids, x.ids if reverse else out.ids)
    call.freeze(out.ids if reverse else x.ids, NETWORK_INPUT)  # the vocabulary stays, which goes without saying
    positions = node.inputs[0].shape[1:-1]
    spots = None if None in positions else int(np.prod([config["input_dim"], *positions]))
    return Spec(
        (out,),
        {"embeddings": (None, Inside()), "reverse_embeddings": (Inside(), None)},
        {"output_dim": Inside()},
        macs=((spots, (Inside(),)),) if reverse else (),
        hidden=(width,),
        reads={"embeddings": (1,), "reverse_embeddings": (0,)},
    )


def stft(call: Call) -> Spec:
    """STFTSpectrogram: the same kernels for each channel; frequencies lie side by side or on an axis of their own."""
    (x,), config, node = call.inputs, call.node.config, call.node
    first = config["data_format"] == "channels_first"
    if x.axis != (1 if first else 2):
        raise Frozen(f"STFTSpectrogram works along axis {x.axis}, which carries the channels")
    frequencies = sum(w.shape[-1] for w in node.weights.values())
    shape = node.outputs[0].shape
    macs = ((_times(_frames(shape, config), config["frame_length"], frequencies), (In(),)),)
    weights = {name: (None,) * 3 for name in node.weights}
    if config["expand_dims"]:
        return Spec((Channels(x.ids, 1 if first else 3),), weights, macs=macs)
    axis = 1 if first else 2
    wide = shape[axis]
    if wide is None or not len(x):
        raise Frozen("STFTSpectrogram of a number of channels that is unknown")
    return Spec((Channels(np.repeat(x.ids, wide // len(x)), axis),), weights, macs=macs)


def _frames(shape: Shape, config: Any) -> int | None:
    if config["data_format"] == "channels_last":
        return shape[1]
    return shape[2]


def _times(frames: int | None, *factors: int) -> int | None:
    return None if frames is None else frames * int(np.prod(factors))


def _opaque(reason: str) -> Rule:
    def opaque(call: Call) -> Spec:
        """Code that cannot be looked into."""
        raise Frozen(reason)

    return opaque


def _present(*names: str) -> list[Any]:
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


RULES: dict[type, Rule] = {
    **dict.fromkeys(_present(*_ENCODERS), encoder),
    **{cls: _opaque(_OPAQUE[cls.__name__]) for cls in _present(*_OPAQUE)},
    **dict.fromkeys(_present("Discretization"), discretization),
    **dict.fromkeys(_present("ReversibleEmbedding"), reversible_embedding),
    **dict.fromkeys(_present("STFTSpectrogram"), stft),
}
