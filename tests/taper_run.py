"""Tapers the network of `test_tapering` with whatever backend Keras has, and says what came of it (one JSON line)."""

from __future__ import annotations

import json

import keras
import numpy as np
from taper_networks import OPTIONS, QUICK, examples, network

import keras_qcqp


def main() -> None:
    """A short run from scratch; weights that gates took out must be gone, and stay so."""
    keras.utils.set_random_seed(0)
    model = network()
    result = keras_qcqp.taper(model, examples(), {"macs": 0.5}, tapering=QUICK, **OPTIONS)
    x, _ = examples()
    whole, small = (m.predict(x, verbose=0) for m in (result.training.model, result.model))
    told = {
        "backend": keras.backend.backend(),
        "share": keras_qcqp.measure(result.model)["macs"] / keras_qcqp.measure(model)["macs"],
        "difference": float(np.abs(whole - small).max()),
        "loss": result.training.history["loss"],
        "points": [p.point for p in result.points],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
