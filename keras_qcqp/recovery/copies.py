"""Copies to work on."""

from __future__ import annotations

import keras

from keras_qcqp.copier import Changes, copied


def copy_of(model: keras.Model) -> keras.Model:
    """The same model again, with weights of its own."""
    copy = copied(model, Changes())
    copy.set_weights(model.get_weights())
    return copy
