"""Tables of vectors, looked up by number."""

from __future__ import annotations

import keras

from keras_qcqp.channels import Call, Out, Rule, Spec


def embedding(call: Call) -> Spec:
    """Embedding: one row for each number; the numbers themselves are no channels."""
    call.freeze(call.inputs[0].ids, "an Embedding looks up each of these numbers")
    return Spec((call.fresh(),), {"embeddings": (None, Out())}, {"output_dim": Out()})


RULES: dict[type, Rule] = {keras.layers.Embedding: embedding}
