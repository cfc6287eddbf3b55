"""What the operands of union additions need at run time, counted from a plan."""

from __future__ import annotations

import dataclasses

from keras_qcqp.coupling import Coupling
from keras_qcqp.plan import Plan
from keras_qcqp.residual.moves import bytes_per_channel, move, source_of


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What one operand of a union addition needs at run time.

    Attributes:
        node, operand: the addition, and which of its operands.
        kind: one of `moves.KINDS`.
        channels: width of the sum.
        bytes: what the operations write for one sample; 0 for kind "none", None where a spatial size is unknown.
    """

    node: str
    operand: int
    kind: str
    channels: int
    bytes: int | None


def alignments(coupling: Coupling, plan: Plan) -> tuple[Alignment, ...]:
    """One for each operand of each union addition of a plan, "none" included; empty for tied residuals."""
    nodes = {node.name: node for node in coupling.graph.nodes}
    found = []
    for join in coupling.joins:
        node, layer = nodes[join.node], plan[nodes[join.node].layer]
        for number, tensor in enumerate(node.inputs):
            if not layer.in_index[number] or not layer.out_index[0]:
                continue  # its branch went, and perhaps the whole addition
            step = move(source_of(layer.in_index[number], layer.out_index[0]), len(layer.in_index[number]))
            each = bytes_per_channel(tensor.shape, coupling.inputs[node.name][number].axis, tensor.dtype)
            size = None if each is None and step.written else step.written * (each or 0)
            found.append(Alignment(node.name, number, step.kind, len(layer.out_index[0]), size))
    return tuple(found)
