"""How much a channel pair matters: one criterion in each file, all with the same signature."""

from __future__ import annotations

from keras_qcqp.errors import QcqpError, did_you_mean
from keras_qcqp.importance.magnitude import magnitude
from keras_qcqp.importance.score import Criterion

CRITERIA: dict[str, Criterion] = {"magnitude": magnitude}


def criterion(name: str) -> Criterion:
    """Looks a criterion up by name.

    Raises:
        QcqpError: unknown name.
    """
    if name not in CRITERIA:
        raise QcqpError(f"Unknown importance '{name}'. {did_you_mean(name, CRITERIA)}")
    return CRITERIA[name]
