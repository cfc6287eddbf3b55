"""What a criterion may look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import DataError
from keras_qcqp.samples import Samples

WeightValues = Mapping[str, Mapping[str, np.ndarray]]
"""Layer path -> weight name -> values."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The network, and what the user knows of it.

    Attributes:
        weights: layer path -> weight name -> values.
        model: the original; criteria that look at weights only do without.
        samples: examples, if the user gave any.
        loss: what the user wants to be kept small, see `losses.loss_of`.
        seed: of everything random.
        tell: called with a line of text as the work goes on.
    """

    coupling: Coupling
    weights: WeightValues
    model: keras.Model | None = None
    samples: Samples | None = None
    loss: Any = None
    seed: int = 0
    tell: Callable[[str], None] = lambda line: None

    def examples(self, criterion: str, labelled: bool = False) -> tuple[keras.Model, Samples]:
        """The model and the examples, for a criterion that needs both.

        Raises:
            DataError: there are none, or they have no labels and `labelled` asks for them.
        """
        if self.model is None or self.samples is None:
            raise DataError(
                f"importance='{criterion}' looks at examples: give data=inputs or data=(inputs, labels), or choose a "
                "criterion that needs none, such as 'magnitude'."
            )
        if labelled and self.samples.labels is None:
            raise DataError(
                f"importance='{criterion}' needs labels: give data=(inputs, labels), or choose 'reconstruction' or "
                "'output_fisher', which need none."
            )
        return self.model, self.samples
