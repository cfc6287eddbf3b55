"""Architectures in small: the law, and that nothing is frozen but what must be."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import conv_bn, images, outputs, shake
from networks_zoo import ZOO
from test_law import require_law

from keras_qcqp.coupling import couple
from keras_qcqp.graph import read

L = keras.layers


@pytest.mark.parametrize("name", ZOO)
def test_what_is_free(name):
    keras.backend.clear_session()
    case = ZOO[name]
    coupling = couple(read(case.build()))
    assert {f.node: f.reason for f in coupling.frozen} == case.frozen
    assert {m.name: m.size for m in coupling.masks if not m.frozen} == case.free


@pytest.mark.parametrize(("residual", "seed"), [("tied", 1), pytest.param("union", 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ZOO)
def test_law_on_architectures(name, residual, seed):
    keras.backend.clear_session()
    require_law(shake(ZOO[name].build(), seed), seed, residual)


def awkward() -> keras.Model:
    """Channels that are anything but zero where they are dropped: behind shifts, sigmoids, exponentials and slopes"""
    x = image = keras.Input((6, 6, 3), name="image")
    x = conv_bn(x, 6, "a", activation="sigmoid")
    x = conv_bn(x, 5, "b", activation="softplus")
    y = keras.ops.exp(-keras.ops.abs(L.Conv2D(5, 3, padding="same", name="c")(x)))
    x = L.PReLU(name="slopes")(L.Subtract(name="difference")([x, y]))
    x = L.DepthwiseConv2D(3, activation="sigmoid", name="dw")(x)
    x = L.Dense(7, activation="hard_sigmoid", name="d")(L.Flatten(name="flat")(x))
    return keras.Model(image, L.Dense(2, name="head")(x), name="awkward")


def _replace(model: keras.Model, named: str, change) -> None:
    """Changes these weights of all layers but the last two, which leaves something to see."""
    for layer in model.layers:
        for variable in layer.weights if layer.name not in ("d", "head") else ():
            if variable.name == named:
                variable.assign(change(np.array(variable)))


@pytest.mark.parametrize("residual", [pytest.param("tied", marks=pytest.mark.slow), "union"])
@pytest.mark.parametrize(
    ("named", "change"),
    [
        pytest.param("beta", lambda w: w + 1e3, id="huge shifts"),
        pytest.param("beta", lambda w: w - 1e3, id="huge negative shifts"),
        pytest.param("moving_variance", lambda w: np.zeros_like(w), id="no variance"),
        pytest.param("moving_mean", lambda w: 1e4 * w, id="huge means"),
        pytest.param("gamma", lambda w: w * (np.arange(len(w)) % 2), id="scales that are exactly zero"),
        pytest.param("kernel", lambda w: np.zeros_like(w), id="kernels of zeros"),
        pytest.param("kernel", lambda w: 1e4 * w, id="huge kernels"),
        pytest.param("kernel", lambda w: 1e-30 * w, id="tiny kernels"),
        pytest.param("kernel", lambda w: np.where(w > 0, w, 0.0), id="kernels with exact zeros"),
        pytest.param("alpha", lambda w: -1e3 * w, id="steep slopes"),
        pytest.param("bias", lambda w: 1e3 + w, id="huge biases"),
    ],
)
def test_law_with_awkward_weights(named, change, residual):
    keras.backend.clear_session()
    model = shake(awkward(), 3)
    _replace(model, named, change)
    smaller, arrays = require_law(model, 4, residual), images(model)
    assert np.abs(outputs(smaller, arrays)[0] - outputs(model, arrays)[0]).max() > 1e-3, "what is dropped matters"
