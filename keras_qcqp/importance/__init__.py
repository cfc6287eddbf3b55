"""How much a channel pair matters: one criterion in each file, all with the same signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_qcqp.errors import QcqpError, did_you_mean
from keras_qcqp.importance.activation import activation
from keras_qcqp.importance.bn_scale import bn_scale
from keras_qcqp.importance.fisher import fisher, output_fisher
from keras_qcqp.importance.geometric_median import geometric_median
from keras_qcqp.importance.given import Given
from keras_qcqp.importance.magnitude import l1, l2, magnitude
from keras_qcqp.importance.random_ import random
from keras_qcqp.importance.reconstruction import Reconstruction
from keras_qcqp.importance.score import Criterion
from keras_qcqp.importance.taylor import taylor
from keras_qcqp.recovery.pivoting import pivot

CRITERIA: dict[str, Criterion] = {
    "activation": activation,
    "bn_scale": bn_scale,
    "fisher": fisher,
    "geometric_median": geometric_median,
    "l1": l1,
    "l2": l2,
    "magnitude": magnitude,
    "output_fisher": output_fisher,
    "pivoted_qr": Reconstruction(ranking=pivot),
    "random": random,
    "reconstruction": Reconstruction(),
    "taylor": taylor,
}

Importance = str | Criterion | Mapping[str, Any]
"""Name of a criterion, an object like one, or arrays by layer path (see `given.Given`)."""


def criterion(importance: Importance | None, has_data: bool = False) -> Criterion:
    """Looks a criterion up; None: "reconstruction" with examples, "magnitude" without.

    Raises:
        QcqpError: unknown name, or neither a name nor a criterion nor arrays.
    """
    if importance is None:
        importance = "reconstruction" if has_data else "magnitude"
    if isinstance(importance, Mapping):
        return Given(importance)
    if callable(importance):
        return importance
    if not isinstance(importance, str) or importance not in CRITERIA:
        raise QcqpError(f"Unknown importance '{importance}'. {did_you_mean(str(importance), CRITERIA)}")
    return CRITERIA[importance]
