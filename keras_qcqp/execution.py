"""Computes single tensors of a network, call by call, in whatever order they are asked for.

A Keras model computes all of itself. Recovery and calibration look at one layer after the other, change it, and go on:
what lies before a layer is computed once with the weights of that moment, and forgotten when its last reader is done.
"""

from __future__ import annotations

import collections
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.gradients import without_gradients
from keras_qcqp.graph import Graph, Node, Tensor, TensorRef, read
from keras_qcqp.keras_graph import infer, layers_by_path
from keras_qcqp.samples import Samples

_MAX_KEPT_BYTES = 2**30
_TENSORS_UNDER_WAY = 3  # of the widest kind, at a time, in both networks


class Network:
    """A model, its graph and its layers, ready to be computed tensor by tensor (inference mode).

    Attributes:
        layers: layer path -> the layer or operation object.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.graph: Graph = read(model)
        self.layers: Mapping[str, Any] = layers_by_path(model)
        self.nodes: Mapping[str, Node] = {node.name: node for node in self.graph.nodes}
        self.producers: Mapping[int, Node] = {x.number: node for node in self.graph.nodes for x in node.outputs}
        self.consumers: Mapping[int, tuple[Node, ...]] = _consumers(self.graph)
        self._num_calls = collections.Counter(node.layer for node in self.graph.nodes)

    def called_once(self, node: Node) -> bool:
        """Whether this is the only call of its layer."""
        return self._num_calls[node.layer] == 1

    def ancestors(self, tensors: Sequence[Tensor]) -> frozenset[str]:
        """Names of all calls that these tensors depend on."""
        found, todo = set[str](), [self.producers[x.number] for x in tensors]
        while todo:
            node = todo.pop()
            if node.name not in found:
                found.add(node.name)
                todo += [self.producers[x.number] for x in node.inputs]
        return frozenset(found)


def _consumers(graph: Graph) -> dict[int, tuple[Node, ...]]:
    found: dict[int, list[Node]] = collections.defaultdict(list)
    for node in graph.nodes:
        for x in {x.number for x in node.inputs}:
            found[x].append(node)
    return {number: tuple(nodes) for number, nodes in found.items()}


def _widest(network: Network) -> int:
    """Bytes of the largest tensor of one example, as float32; unknown sizes count as one."""
    sizes = (math.prod(n or 1 for n in x.shape[1:]) for node in network.graph.nodes for x in node.outputs)
    return 4 * max(sizes, default=0)


class Execution:
    """One batch on its way through a network; `inputs` are in the order of the model's own inputs."""

    def __init__(self, network: Network, inputs: Sequence[Any]) -> None:
        self._network = network
        self._values: dict[int, Any] = {}
        self._done: set[str] = set()
        self._inputs = {x.number for x in network.graph.inputs}  # never forgotten: all else can be computed again
        for x, value in zip(network.graph.inputs, inputs, strict=True):
            self._values[x.number] = keras.ops.convert_to_tensor(value, dtype=x.dtype)
            self._done.add(network.producers[x.number].name)

    def fork(self) -> Execution:
        """Another run that goes on from here on its own."""
        run = copy.copy(self)
        run._values, run._done = dict(self._values), set(self._done)
        return run

    def value(self, tensor: Tensor) -> Any:
        """The tensor, with the weights its ancestors have now, or had when they were computed."""
        todo = [tensor]
        while todo:
            number = todo[-1].number
            if number in self._values:
                todo.pop()
                continue
            node = self._network.producers[number]
            missing = [x for x in node.inputs if x.number not in self._values]
            if missing:
                todo += missing
            else:
                self._compute(node)
        return self._values[tensor.number]

    def array(self, tensor: Tensor) -> np.ndarray:
        """The same as a NumPy array; half precision as float32, with which NumPy can multiply."""
        array = np.asarray(keras.ops.convert_to_numpy(self.value(tensor)))
        return array.astype(np.float32) if array.dtype.name in ("bfloat16", "float16") else array

    def _compute(self, node: Node) -> None:
        given = [self._values[x.number] for x in node.inputs]
        args, kwargs = keras.tree.map_structure(
            lambda x: given[x.position] if isinstance(x, TensorRef) else x, node.arguments
        )
        with without_gradients():
            made = keras.tree.flatten(infer(self._network.layers[node.layer], args, kwargs))
        self._values.update((x.number, value) for x, value in zip(node.outputs, made, strict=True))
        self._done.add(node.name)
        for x in node.inputs:
            readers = self._network.consumers[x.number]
            if x.number not in self._inputs and all(reader.name in self._done for reader in readers):
                self._values.pop(x.number, None)


class Runs:
    """Networks side by side on all batches: what is under way is kept, or where that is too much, computed again."""

    def __init__(self, networks: Sequence[Network], samples: Samples, batch_size: int) -> None:
        self.num_samples = len(samples)
        self._networks = tuple(networks)
        self._batches = [inputs for inputs, _ in samples.batches(batch_size)]
        self._kept: list[tuple[Execution, ...]] | None = None
        if _TENSORS_UNDER_WAY * max(map(_widest, networks)) * len(samples) <= _MAX_KEPT_BYTES:
            self._kept = [self._start(inputs) for inputs in self._batches]

    @property
    def kept(self) -> bool:
        """Whether the next iteration goes on where the last one ended."""
        return self._kept is not None

    def __iter__(self) -> Iterator[tuple[Execution, ...]]:
        yield from self._kept if self._kept is not None else map(self._start, self._batches)

    def _start(self, inputs: Sequence[np.ndarray]) -> tuple[Execution, ...]:
        return tuple(Execution(network, inputs) for network in self._networks)
