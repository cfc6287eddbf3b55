"""A graph after its ties are resolved: what the questions of union residuals are asked of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from keras_qcqp.channels import Channels, Spec
from keras_qcqp.graph import Graph


@dataclasses.dataclass(frozen=True)
class Streams:
    """Ids are numbers of coupled channels.

    Attributes:
        specs, inputs: what each node's rule said, and the channels of its inputs.
        joins: names of the additions whose sum has channels of its own.
        frozen: bool[channels], which are always kept.
    """

    graph: Graph
    specs: Mapping[str, Spec]
    inputs: Mapping[str, tuple[Channels, ...]]
    joins: Collection[str]
    frozen: np.ndarray
