"""Keras 2 models and files: the door at which they become Keras 3 models."""

from __future__ import annotations

from typing import Any

from keras_qcqp.legacy.convert import from_tf_keras
from keras_qcqp.legacy.graph import is_tf_keras


def modern(model: Any) -> Any:
    """The model itself, or what `from_tf_keras` makes of it if it is one of `tf_keras`."""
    return from_tf_keras(model) if is_tf_keras(model) else model
