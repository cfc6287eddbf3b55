"""Run by tests/test_backends.py in a process of its own for each backend: the law, the main job, one step of training.

    KERAS_BACKEND=jax python tests/backend_law.py FOLDER [NETWORK ...]

Prints one JSON object; what it says must not depend on the backend but where `test_backends` says so.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from networks import NETWORKS, images, outputs, shake
from test_law import require_law

import keras_qcqp
from keras_qcqp.coupling import RESIDUALS

L = keras.layers
FRAMEWORKS = ("tensorflow", "jax", "torch", "ortools")
JOB = {"macs": 0.5, "params": 0.9}


def channels_first() -> keras.Model:
    """conv bn relu -+-> conv -+-> add -> depthwise -> separable -> conv transpose -> mean -> dense, channels first

    No width ever equals an image side: `ops.add` of Keras takes a bias of shape (1, c, 1, 1) for one along the last
    axis under TensorFlow where that is as long (3.15).
    """
    form: dict[str, Any] = {"data_format": "channels_first"}
    x = image = keras.Input((3, 12, 12), name="image")
    x = L.Conv2D(6, 3, padding="same", name="a", **form)(x)
    x = L.ReLU(name="act")(L.BatchNormalization(axis=1, name="bn")(x))
    x = L.Add(name="sum")([x, L.Conv2D(6, 3, padding="same", name="b", **form)(x)])
    x = L.DepthwiseConv2D(3, padding="same", name="dw", **form)(x)
    x = L.PReLU(shared_axes=[2, 3], name="prelu")(L.SeparableConv2D(5, 3, name="sep", **form)(x))
    x = L.Conv2DTranspose(4, 2, name="grow", **form)(x)
    x = L.GlobalAveragePooling2D(name="mean", **form)(x)
    return keras.Model(image, L.Dense(3, name="head")(x), name="channels_first")


def half_precision() -> keras.Model:
    """A small residual network whose variables and tensors are bfloat16."""
    keras.config.set_dtype_policy("bfloat16")
    try:
        image = keras.Input((8, 8, 3), name="image")
        x = L.Conv2D(6, 3, padding="same", activation="relu", name="a")(image)
        x = L.Add(name="sum")([x, L.Conv2D(6, 3, padding="same", name="b")(x)])
        return keras.Model(image, L.Dense(3, name="head")(L.Flatten(name="flat")(x)), name="half_precision")
    finally:
        keras.config.set_dtype_policy("float32")


def require_law_in_half_precision() -> None:
    """`require_law` compares in float32; bfloat16 has 8 bits."""
    model = shake(half_precision())
    plan = keras_qcqp.prune(model, {"macs": 0.5}, residual="union").plan
    smaller, reference = keras_qcqp.rebuild(model, plan), keras_qcqp.masked(model, plan)
    (got,), (wanted,) = outputs(smaller, images(model)), outputs(reference, images(model))
    assert got.dtype == wanted.dtype == "bfloat16", (got.dtype, wanted.dtype)
    difference = np.abs(got.astype("float32") - wanted.astype("float32")).max()
    assert difference <= 2e-2 * np.abs(wanted.astype("float32")).max(), difference


def pruned(path: Path, residual: str) -> dict[str, Any]:
    """Loads a file, prunes it, saves the result and trains it; what the plan and the report say."""
    model = keras.models.load_model(path)
    model.get_layer("stem_conv").trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    before = [np.array(w) for w in model.get_weights()]
    result = keras_qcqp.prune(model, JOB, residual=residual)
    smaller = path.with_name(f"{keras.backend.backend()}_{residual}.keras")
    result.model.save(smaller)
    loaded = keras.models.load_model(smaller)
    for got, wanted in zip(outputs(loaded, images(model)), outputs(result.model, images(model)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    require_training(result.model)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    return {"plan": result.plan.to_json(), "report": str(result.report), "measured": keras_qcqp.measure(loaded)}


def require_training(smaller: keras.Model) -> None:
    """Compile settings were carried over, and one step moves what is trainable and nothing that was frozen."""
    start = {v.path: keras.ops.convert_to_numpy(v) for v in smaller.variables}
    (batch,) = images(smaller, 8)
    history = smaller.fit(batch, np.ones((8, 5), "float32"), batch_size=8, verbose=0).history
    assert sorted(history) == ["loss", "mae"] and np.isfinite(history["loss"]).all(), history
    moved = {v.path for v in smaller.variables if not np.array_equal(keras.ops.convert_to_numpy(v), start[v.path])}
    assert "stem_conv/kernel" not in moved
    assert moved >= {v.path for v in smaller.trainable_variables}, moved


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        for residual in RESIDUALS:
            keras.backend.clear_session()
            require_law(shake(NETWORKS[name]()), 0, residual)
    for residual in RESIDUALS:
        require_law(shake(channels_first()), 0, residual)
    require_law_in_half_precision()
    told = {
        "backend": keras.backend.backend(),
        "law": names,
        "pruned": {residual: pruned(folder / "original.keras", residual) for residual in RESIDUALS},
        "imported": [name for name in FRAMEWORKS if name in sys.modules],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
