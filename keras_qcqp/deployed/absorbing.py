"""What an operator looks like once a bias, a batch norm or a clamp is fused into it: its constants and its name."""

from __future__ import annotations

import dataclasses

from keras_qcqp.deployed.program import Constant, Op

KERNELS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
CLAMPS = frozenset({"RELU", "RELU6"})
AFFINE = frozenset({"ADD_VECTOR", "MUL_VECTOR", "ADD_SCALAR", "MUL_SCALAR"})


def absorbed(op: Op, base: Op, between: Op | None) -> Op:
    """`base` with `op` fused into it; `between` is the reshape that stands between them, if any."""
    through = between.labels[:1] if between is not None and between.label not in base.labels else ()
    base = dataclasses.replace(base, labels=(*through, *base.labels))
    constants, labels = base.constants, op.labels
    if op.kind in AFFINE:
        constants = unshared(constants, op)
    if op.kind.startswith("ADD") and not has_bias(constants):
        constants += tuple(dataclasses.replace(c, kind="bias") for c in op.constants)
    if op.kind == "MUL_VECTOR":
        name, labels = _scaled_names(op, base, straight=between is None)
        constants = (dataclasses.replace(constants[0], name=name), *constants[1:])
    elif base.kind == "FULLY_CONNECTED":
        labels = labels[:1]
    return dataclasses.replace(base, constants=constants, labels=(*labels, *base.labels), sealed=op.kind in CLAMPS)


def _scaled_names(op: Op, base: Op, straight: bool) -> tuple[str, tuple[str, ...]]:
    """What a batch norm does to the name of the kernel that it is folded into, and adds to that of the result."""
    kernel = base.constants[0].name
    if base.kind == "FULLY_CONNECTED":
        return op.label, op.labels[:1]
    if base.kind == "CONV_2D" and straight:
        return kernel, () if len(base.labels) == 1 else op.labels  # without a bias only its sum leaves a name
    return ";".join((*op.labels, *base.labels)), op.labels


def consumed(op: Op, reader: Op) -> Op:
    """`reader` with the product or sum `op` in front of it folded into its constants."""
    constants = unshared(reader.constants, op)
    if op.kind.startswith("ADD") and not has_bias(constants):
        width = constants[0].scales
        constants += (dataclasses.replace(op.constants[0], kind="bias", elements=width, scales=width),)
    return dataclasses.replace(reader, constants=constants)


def has_bias(constants: tuple[Constant, ...]) -> bool:
    """Whether one of them is a bias."""
    return any(c.kind == "bias" for c in constants)


def unshared(constants: tuple[Constant, ...], op: Op) -> tuple[Constant, ...]:
    """What was one constant for several calls is now one for each way of fusing."""
    return tuple(dataclasses.replace(c, shared=f"{c.shared}+{op.node.layer}") for c in constants)
