"""Names of tensors in a `.tflite` file, and of the Keras layers they come from."""

from __future__ import annotations

from tflite_tools.flatbuffer import op_name, text

_GENERIC = ("StatefulPartitionedCall", "serving_default", "PartitionedCall")


def operator_outputs(data: bytes) -> list[tuple[str, str]]:
    """(operator, name of its first output) of the main graph, in execution order."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    found = []
    for number in range(graph.OperatorsLength()):
        op = graph.Operators(number)
        name = text(graph.Tensors(op.Outputs(0)).Name())
        found.append((op_name(model.OperatorCodes(op.OpcodeIndex())), name))
    return found


def layer_of(tensor: str) -> str:
    """The Keras layer that a tensor is the last result of, as far as its name tells; else the name itself.

    Fused operators join names with ";", the last result first; paths begin with the model's own name.

    >>> layer_of("net_1/relu_1/Relu;net_1/conv_1/convolution")
    'relu_1'
    >>> layer_of("StatefulPartitionedCall:0")
    'StatefulPartitionedCall:0'
    """
    first = tensor.split(";")[0]
    parts = first.split("/")
    if len(parts) < 3 or first.startswith(_GENERIC):
        return tensor
    return "/".join(parts[1:-1])
