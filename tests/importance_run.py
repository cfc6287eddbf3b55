"""A small network for tests of importance; its Fisher scores and recovery, in a process of its own.

    KERAS_BACKEND=jax python tests/importance_run.py FOLDER

Reads FOLDER/net.keras and FOLDER/data.npz, leaves FOLDER/BACKEND.npz: scores, and outputs of the recovered network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from networks import shake

import keras_qcqp
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.importance import criterion
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score
from keras_qcqp.keras_graph import weight_values
from keras_qcqp.samples import collect

L, ops = keras.layers, keras.ops


def evidence_of(model: keras.Model, data=None, **options) -> Evidence:
    samples = None if data is None else collect(data, model)
    return Evidence(couple(read(model)), weight_values(model), model, samples, **options)


def name_of(score: Score) -> str:
    """Of the layer and the tensors that the score follows; unique for layers of one kernel."""
    return f"{score.node.layer} {' '.join(axis.side for axis in score.axes)}"


def small() -> keras.Model:
    """conv 3 -> batch norm -> tanh -> depthwise -> mean -> dense 4 -> dense 2"""
    x = image = keras.Input((4, 4, 2), name="image")
    x = L.BatchNormalization(name="bn")(L.Conv2D(3, 3, name="conv")(x))
    x = L.DepthwiseConv2D(2, depth_multiplier=2, name="dw")(L.Activation("tanh", name="act")(x))
    x = L.Dense(4, activation="tanh", name="hidden")(L.GlobalAveragePooling2D(name="mean")(x))
    return shake(keras.Model(image, L.Dense(2, name="head")(x), name="small"))


def examples(count: int, shape=(4, 4, 2), classes: int = 2, dtype="float32"):
    random = np.random.default_rng(0)
    return random.normal(size=(count, *shape)).astype(dtype), random.integers(0, classes, count)


def scored(name, evidence) -> dict[str, np.ndarray]:
    return {name_of(s): s.values for s in criterion(name)(evidence)}


def kernel(model, layer) -> np.ndarray:
    return ops.convert_to_numpy(model.get_layer(layer).kernel).astype("float64")


def require_equal(found, wanted, tolerance=1e-6):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=1e-12, err_msg=name)


def main(folder: Path) -> None:
    model, data = keras.models.load_model(folder / "net.keras"), np.load(folder / "data.npz")
    x, y = data["x"], data["y"]
    found = {name_of(s): s.values for s in criterion("fisher")(evidence_of(model, (x, y)))}
    pruned = keras_qcqp.prune(model, {"macs": 0.6}, recovery=())
    steps = ("least_squares",)
    won = keras_qcqp.recover(model, pruned.model, pruned.plan, x, steps=steps)
    found["plan"] = np.array(pruned.plan.to_json())
    found |= {"before": pruned.model.predict(x, verbose=0), "after": won.model.predict(x, verbose=0)}
    np.savez(folder / keras.backend.backend(), original=model.predict(x, verbose=0), **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
