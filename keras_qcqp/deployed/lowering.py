"""The table of lowerings: layer class -> the operators it is deployed as.

What is not in the table, or is used in a way that was not looked at (`channels_first`), becomes an operator of which
nothing is known (`Site.opaque`), and is counted too large rather than too small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.deployed import activations, operations
from keras_qcqp.deployed.moving import MOVING, reshape, squeezed, unsqueezed
from keras_qcqp.deployed.naming import Scopes
from keras_qcqp.deployed.program import Constant, Op, Program, Value
from keras_qcqp.deployed.site import Site, as_value
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import Node
from keras_qcqp.terms import unknown_size

Lowering = Callable[[Site], int]


def lower(coupling: Coupling, resource: str) -> Program:
    """The operators of a network, nothing fused yet, in the order of its layers.

    Raises:
        BudgetError: a size is unknown, or what goes on inside a layer, so `resource` cannot be counted.
    """
    graph, ops, made = coupling.graph, dict[int, Op](), dict[int, int]()
    for node in graph.nodes:
        if any(None in tensor.shape[1:] for tensor in node.outputs):
            raise BudgetError(unknown_size(node, resource))
        if node.cls in LARGE_INSIDE:
            raise BudgetError(
                f"'{resource}' cannot be counted: '{node.name}' ({node.kind}) holds scores for all pairs of positions, "
                "and how the converter writes them is not known. Leave this budget out."
            )
    scopes = Scopes(graph.name)
    for node in graph.nodes:
        if issubclass(node.cls, keras.layers.InputLayer):
            value = as_value(node.outputs[0], coupling.specs[node.name].outputs[0])
            made[node.outputs[0].number] = len(ops)
            ops[len(ops)] = Op("INPUT", node.name.lower(), node, (), value, labels=(node.name,))
            continue
        site = Site(coupling, node, scopes, ops, tuple(made[x.number] for x in node.inputs))
        made.update(zip((x.number for x in node.outputs), _lowered(site), strict=True))
    return Program(graph.name, ops, tuple(made[x.number] for x in graph.outputs))


def _lowered(site: Site) -> list[int]:
    lowering = find(site.node)
    if lowering is None or len(site.node.outputs) != 1:
        return [site.opaque(site.inputs, port) for port in range(len(site.node.outputs))]
    return [lowering(site)]


def find(node: Node) -> Lowering | None:
    """The lowering of a call; None when there is none."""
    if node.config.get("data_format") == "channels_first" and node.cls not in ANY_FORMAT:
        return None
    lowering = LOWERINGS.get(node.cls)
    if lowering is None and node.cls.__module__.startswith("keras.src.ops."):
        lowering = operations.LOWERINGS.get(node.kind)
    return lowering


def _biased(site: Site, x: int, kind: str = "ADD_VECTOR") -> int:
    if "bias" not in site.node.weights:
        return x
    value = site.value(x)
    bias = site.weight("bias", "bias" if kind == "ADD_VECTOR" else "plain", "BiasAdd", site.channels(value))
    labels = () if site.kind(x) == "FULLY_CONNECTED" else ("Squeeze",)
    return site.emit(kind, "BiasAdd", (x,), value, constants=(bias,), variables=("Reshape",), labels=labels)


def _kernel(site: Site, weight: str, label: str, value: Value) -> Constant:
    return site.weight(weight, "kernel", label, site.channels(value))


def filtering(kind: str, label: str, weight: str = "kernel") -> Lowering:
    """A layer with one kernel in two dimensions; in one dimension it is the same between two reshapes."""

    def lowering(site: Site) -> int:
        (x,), result = site.inputs, site.result()
        flat = len(result.shape) == 3
        if flat and site.config.get("padding") == "causal":
            x = _causal(site, x)
        if flat:
            x, result = unsqueezed(site, x, f"{label}/ExpandDims"), squeezed(result)
        shape = (site.index(f"{label}/stack", 4),) if kind == "TRANSPOSE_CONV" else ()
        constants = (_kernel(site, weight, label, result), *shape)
        y = site.emit(kind, label, (x,), result, constants=constants, variables=(label,))
        if flat:
            y = reshape(site, y, f"{label}/Squeeze", site.result())
        return site.configured_activation(_biased(site, y))

    return lowering


def _causal(site: Site, x: int) -> int:
    value, (size,), (dilation,) = site.value(x), site.config["kernel_size"], site.config["dilation_rate"]
    padded = Value((1, value.shape[1] + dilation * (size - 1), value.shape[2]), value.axis, value.ids, value.dtype)
    return site.emit("PAD", "Pad", (x,), padded, constants=(site.index("Pad/paddings", 6),))


def convolution(site: Site) -> int:
    """Conv1D, Conv2D and Conv3D; the last cannot fuse its bias."""
    if len(site.result().shape) < 5:
        return _CONVOLUTION(site)
    kernel = _kernel(site, "kernel", "convolution", site.result())
    y = site.emit("CONV_3D", "convolution", site.inputs, constants=(kernel,), variables=("convolution",))
    return site.configured_activation(_biased(site, y, "ADD"))


_CONVOLUTION = filtering("CONV_2D", "convolution")


def separable(site: Site) -> int:
    """A depthwise step and a pointwise one."""
    (x,), result = site.inputs, site.result()
    given, multiplier = site.value(x), site.config["depth_multiplier"]
    flat = len(result.shape) == 3
    if flat:
        x, result = unsqueezed(site, x, "ExpandDims"), squeezed(result)
    ids, axis = np.repeat(given.ids, multiplier), None if given.axis is None else len(result.shape) - 1
    middle = Value((*result.shape[:-1], given.shape[-1] * multiplier), axis, ids, result.dtype)
    label = "separable_conv2d"
    depth = _kernel(site, "depthwise_kernel", f"{label}/depthwise", middle)
    # The depthwise step has no bias of its own, so the file holds zeros.
    zeros = site.vector(middle, "bias", f"{label}/depthwise")
    y = site.emit(
        "DEPTHWISE_CONV_2D", f"{label}/depthwise", (x,), middle, constants=(depth, zeros), variables=(f"{label}/d",)
    )
    point = _kernel(site, "pointwise_kernel", label, result)
    y = site.emit("CONV_2D", label, (y,), result, constants=(point,), variables=(label,))
    if flat:
        y = reshape(site, y, "Squeeze", site.result())
    return site.configured_activation(_biased(site, y))


def dense(site: Site) -> int:
    """Dense works on the last axis of a tensor of any rank."""
    result = site.result()
    label = "MatMul" if len(result.shape) == 2 else "Tensordot"
    kernel = _kernel(site, "kernel", label if label == "MatMul" else f"{label}/MatMul", result)
    y = site.emit("FULLY_CONNECTED", label, site.inputs, constants=(kernel,), variables=("Cast",))
    return site.configured_activation(_biased(site, y))


def batch_norm(site: Site) -> int:
    """A product and a sum with one number for each channel."""
    factor, shift = (site.vector(site.result(), "plain", f"batchnorm/{name}") for name in ("mul", "sub"))
    y = site.emit(
        "MUL_VECTOR",
        "batchnorm/mul_1",
        site.inputs,
        constants=(factor,),
        variables=("Cast_1", "Cast_2"),
        labels=("batchnorm/mul",),
    )
    variables = ("Cast", "Cast_1", "Cast_2", "Cast_3")
    return site.emit(
        "ADD_VECTOR", "batchnorm/add_1", (y,), constants=(shift,), variables=variables, labels=("batchnorm/sub",)
    )


def merging(kind: str, label: str, mean: bool = False) -> Lowering:
    """An element-wise operator of two operands, applied from left to right; lower ranks are reshaped before."""

    def lowering(site: Site) -> int:
        rank = max(len(site.value(x).shape) for x in site.inputs)
        operands = [_of_rank(site, x, rank, k) for k, x in enumerate(site.inputs)]
        operands = [site.aligned(x, k) for k, x in enumerate(operands)]
        total = operands[0]
        for k, x in enumerate(operands[1:]):
            total = site.emit(kind, label if k == 0 else f"{label}_{k}", (total, x))
        return site.emit("MUL_SCALAR", "truediv", (total,), constants=(site.scalar("truediv/y"),)) if mean else total

    return lowering


def _of_rank(site: Site, x: int, rank: int, k: int) -> int:
    value = site.value(x)
    extra = rank - len(value.shape)
    if not extra:
        return x
    axis = None if value.axis is None else value.axis + extra
    return reshape(site, x, f"Reshape_{k}", Value((1,) * extra + value.shape, axis, value.ids, value.dtype))


def function(name: str) -> Lowering:
    """A layer that is one activation function."""
    return lambda site: site.activate(site.inputs[0], name)


def prelu(site: Site) -> int:
    """PReLU is one operator, unless it is recognised no more because nothing negative reaches it."""
    (x,) = site.inputs
    alpha = site.weight("alpha", "plain", "add", site.count(1))
    if site.kind(x) in ("RELU", "RELU6"):
        y = site.emit("RELU", "Relu_1", (site.emit("NEG", "Neg_1", (x,)),))
        y = site.emit("MUL", "mul", (y,), constants=(alpha,), variables=("mul",))
        return site.emit("ADD", "add", (x, y))
    labels = ("Relu", "Neg_1", "Relu_1", "mul")
    return site.emit("PRELU", "add", site.inputs, constants=(alpha,), variables=("mul",), labels=labels)


def softmax(site: Site) -> int:
    """Softmax along the last axis."""
    return site.activate(site.inputs[0], "softmax") if _last_axis(site) else site.opaque(site.inputs)


def _last_axis(site: Site) -> bool:
    axis = site.config["axis"]
    return axis in (-1, len(site.result().shape) - 1)


def rescaling(site: Site) -> int:
    """A product and a sum with numbers."""
    scale, offset = site.config["scale"], site.config["offset"]
    if any(not isinstance(number, (int, float)) for number in (scale, offset)):
        return site.opaque(site.inputs)
    y = site.emit("MUL_SCALAR", "mul", site.inputs, constants=(site.scalar("Cast/x"),))
    if not offset:
        return y
    return site.emit("ADD_SCALAR", "add", (y,), constants=(site.scalar("Cast_1/x"),))


def normalization(site: Site) -> int:
    """A difference and a product with stored numbers."""
    value = site.result()
    mean, scale = (site.vector(value, "plain", label) for label in ("Const", "truediv/Maximum"))
    y = site.emit("SUB", "Sub", site.inputs, constants=(mean,))
    return site.emit("MUL", "truediv", (y,), constants=(scale,), labels=("Maximum",))


def concatenate(site: Site) -> int:
    """Side by side."""
    return site.emit("CONCATENATION", "concat", site.inputs)


def nothing(site: Site) -> int:
    """Layers that do nothing after training."""
    return site.inputs[0]


_L: Any = keras.layers
ANY_FORMAT = {_L.Flatten, *(getattr(_L, f"ZeroPadding{n}D") for n in (2, 3))}
LARGE_INSIDE = {
    getattr(_L, name)
    for name in ("MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention")
    if hasattr(_L, name)
}
"""Layers that make tensors larger than those they take and return."""

LOWERINGS: dict[type, Lowering] = {
    **MOVING,
    **dict.fromkeys([_L.Conv1D, _L.Conv2D, _L.Conv3D], convolution),
    **dict.fromkeys([_L.Conv1DTranspose, _L.Conv2DTranspose], filtering("TRANSPOSE_CONV", "conv_transpose")),
    **dict.fromkeys([_L.DepthwiseConv1D, _L.DepthwiseConv2D], filtering("DEPTHWISE_CONV_2D", "depthwise")),
    **dict.fromkeys([_L.SeparableConv1D, _L.SeparableConv2D], separable),
    _L.Dense: dense,
    _L.BatchNormalization: batch_norm,
    _L.Add: merging("ADD", "Add"),
    _L.Subtract: merging("SUB", "Sub"),
    _L.Multiply: merging("MUL", "Mul"),
    _L.Average: merging("ADD", "Add", mean=True),
    _L.Maximum: merging("MAXIMUM", "Maximum"),
    _L.Minimum: merging("MINIMUM", "Minimum"),
    _L.Concatenate: concatenate,
    _L.Activation: lambda site: site.configured_activation(site.inputs[0]),
    _L.ReLU: lambda site: site.activate(site.inputs[0], activations.relu_layer(site.config)),
    _L.LeakyReLU: function("leaky_relu"),
    _L.ELU: function("elu"),
    _L.PReLU: prelu,
    _L.Softmax: softmax,
    _L.Rescaling: rescaling,
    _L.Normalization: normalization,
    **dict.fromkeys([_L.Dropout, _L.AlphaDropout, _L.GaussianDropout, _L.GaussianNoise, _L.Identity], nothing),
    **dict.fromkeys([_L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D], nothing),
    _L.ActivityRegularization: nothing,
}
