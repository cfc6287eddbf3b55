"""Reconstruction: every kernel is fitted anew, so that it makes of what is left what it used to make of everything.

Layer after layer in the order of the network: the rows are what the layer reads in the pruned network as fitted so far,
the targets what it gave in the original. So each fit makes up for what the ones before could not (source for such
asymmetric fits: Zhang et al., "Accelerating very deep convolutional networks for classification and detection", TPAMI
2016; for channels: He et al., "Channel pruning for accelerating very deep neural networks", ICCV 2017). Ours: a ridge
towards the weights as they are, and the last operand of a residual addition also makes up for the error of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_qcqp.execution import Network, Runs
from keras_qcqp.recovery.following import Following, following
from keras_qcqp.recovery.layer_fit import LayerFit
from keras_qcqp.recovery.pair import Pair, Settings
from keras_qcqp.recovery.readers import MAX_INPUTS, Reader, reader_of
from keras_qcqp.samples import Samples


def fit(pair: Pair, samples: Samples, settings: Settings, tell: Callable[[str], None]) -> list[str]:
    """Changes the pruned network; returns a line for each layer with a kernel that stays as it is."""
    runs = Runs((pair.original, pair.pruned), samples, settings.batch_size)
    random = np.random.default_rng(settings.seed)
    readers, left = _readers(pair.pruned)
    fitted = set[str]()
    for number, reader in enumerate(readers):
        tell(f"fitting '{reader.node.layer}', {number + 1} of {len(readers)}")
        behind = following(pair.pruned, reader.node)
        if behind.names != following(pair.original, pair.original.nodes[reader.node.name]).names:
            behind = Following(behind.norm)  # something in between was taken out
        if behind.addition is not None and not _settled(pair, behind, fitted, readers):
            behind = behind.alone
        LayerFit(pair, reader, behind, settings, random).run(runs)
        fitted.add(reader.node.layer)
    return left


def _readers(network: Network) -> tuple[list[Reader], list[str]]:
    found, left = list[Reader](), list[str]()
    for node in network.graph.nodes:
        if node.name != node.layer or not any(name.endswith("kernel") for name in node.weights):
            continue
        reader = reader_of(node)
        if reader is None:
            left.append(f"'{node.layer}' ({node.kind}): no fit is known for such a kernel")
        elif reader.too_large:
            left.append(f"'{node.layer}' ({node.kind}): its kernel reads more than {MAX_INPUTS:,} numbers at a time")
        elif not network.called_once(node):
            left.append(f"'{node.layer}' ({node.kind}): it is called more than once")
        else:
            found.append(reader)
    return found, left


def _settled(pair: Pair, behind: Following, fitted: set[str], readers: Sequence[Reader]) -> bool:
    """Whether the other operands of the addition are what they will be, and none was taken out."""
    assert behind.addition is not None
    network = pair.pruned
    if len(pair.original.nodes[behind.addition.name].inputs) != len(behind.addition.inputs):
        return False
    others = [x for k, x in enumerate(behind.addition.inputs) if k != behind.operand]
    before = network.ancestors(others)
    return all(r.node.layer in fitted for r in readers if r.node.name in before)
