"""Lowerings of `keras.ops` calls, by class name."""

from __future__ import annotations

from collections.abc import Callable

from keras_qcqp.deployed.moving import reducing, reshape
from keras_qcqp.deployed.program import Constant
from keras_qcqp.deployed.site import Site

Lowering = Callable[[Site], int]


def binary(kind: str, label: str) -> Lowering:
    """An operator of two operands; one of them may be a number."""

    def lowering(site: Site) -> int:
        if len(site.inputs) == 2:
            return site.emit(kind, label, tuple(site.aligned(x, k) for k, x in enumerate(site.inputs)))
        if arrays := site.arrays():
            return site.emit(kind, label, site.inputs, constants=arrays)
        fusable = {"ADD": "ADD_SCALAR", "SUB": "ADD_SCALAR", "MUL": "MUL_SCALAR", "DIV": "MUL_SCALAR"}.get(kind, kind)
        return site.emit(fusable, label, site.inputs, constants=(site.scalar("Const"),))

    return lowering


def unary(name: str) -> Lowering:
    """An operator of one operand."""
    return lambda site: site.emit(name.upper(), name, site.inputs)


def function(name: str) -> Lowering:
    """A known activation function."""
    return lambda site: site.activate(site.inputs[0], name)


def indexed(kind: str, label: str, numbers: int) -> Lowering:
    """An operator with `numbers` lists of whole numbers, one entry for each axis."""

    def lowering(site: Site) -> int:
        rank = len(site.value(site.inputs[0]).shape)
        constants = tuple(site.index(f"{label}/stack_{k}", rank) for k in range(numbers))
        return site.emit(kind, label, site.inputs, constants=constants)

    return lowering


def gather(site: Site) -> int:
    """ops.take with a list of positions."""
    positions = site.channels(site.result())
    listed = Constant("index", f"{site.scope}GatherV2/indices", 1, positions, site.count(0), f"{site.node.name}/take")
    return site.emit("GATHER", "GatherV2", site.inputs, constants=(listed,))


def zeros(site: Site) -> int:
    """ops.zeros_like is stored in the file."""
    value = site.result()
    elements = value.elements(site.node)[0]
    stored = Constant("plain", f"{site.scope}zeros_like", len(value.shape), elements, site.count(1), site.node.name)
    return site.emit("CONSTANT", "zeros_like", (), constants=(stored,))


def softmax(site: Site) -> int:
    """ops.softmax along the last axis."""
    axis = site.config.get("axis", -1)
    last = axis in (-1, len(site.result().shape) - 1)
    return site.activate(site.inputs[0], "softmax") if last else site.opaque(site.inputs)


_UNARY = "Abs Ceil Cos Exp Floor Log Negative Round Rsqrt Sign Sin Sqrt Square".split()
_FUNCTIONS = {
    "Elu": "elu",
    "Gelu": "gelu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LeakyRelu": "leaky_relu",
    "Relu": "relu",
    "Relu6": "relu6",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}

LOWERINGS: dict[str, Lowering] = {
    **{name: unary(name) for name in _UNARY},
    **{name: function(key) for name, key in _FUNCTIONS.items()},
    "Add": binary("ADD", "Add"),
    "Subtract": binary("SUB", "Sub"),
    "Multiply": binary("MUL", "Mul"),
    "Divide": binary("DIV", "truediv"),
    "TrueDivide": binary("DIV", "truediv"),
    "Maximum": binary("MAXIMUM", "Maximum"),
    "Minimum": binary("MINIMUM", "Minimum"),
    "Power": binary("POW", "Pow"),
    **dict.fromkeys(["Mean"], reducing("MEAN", "Mean")),
    **dict.fromkeys(["Sum"], reducing("SUM", "Sum")),
    **dict.fromkeys(["Max", "Amax"], reducing("REDUCE_MAX", "Max")),
    **dict.fromkeys(["Min", "Amin"], reducing("REDUCE_MIN", "Min")),
    **dict.fromkeys(["Reshape", "Squeeze"], lambda site: reshape(site, site.inputs[0], "Reshape", site.result())),
    "ExpandDims": lambda site: reshape(site, site.inputs[0], "ExpandDims", site.result()),
    "Concatenate": lambda site: site.emit("CONCATENATION", "concat", site.inputs),
    "Transpose": indexed("TRANSPOSE", "transpose", 1),
    "GetItem": indexed("STRIDED_SLICE", "strided_slice", 3),
    "Pad": indexed("PAD", "Pad", 2),
    "Take": gather,
    "ZerosLike": zeros,
    "Identity": lambda site: site.inputs[0],
    "Softmax": softmax,
}
