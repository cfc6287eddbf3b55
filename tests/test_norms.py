"""Normalisation layers: over positions, over channels, over groups of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import images, outputs, shake
from test_law import require_law
from test_rules import sizes

from keras_qcqp import masked, rebuild
from keras_qcqp.coupling import RESIDUALS, couple
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from

L = keras.layers


def normed(layer, data_format: str = "channels_last") -> keras.Model:
    """conv 8 -> norm -> [conv 8] added -> norm of the same kind -> flatten -> dense"""
    image = keras.Input((4, 5, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="conv")(image)
    if data_format == "channels_first":
        x = L.Permute((3, 1, 2), name="turn")(x)
        return keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(layer(x))), name="probe")
    x = layer(x)
    x = L.Add(name="sum")([x, L.Conv2D(8, 1, name="branch")(x)])
    again = type(layer).from_config({**layer.get_config(), "name": "again"})
    return keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(again(x))), name="probe")


NORMS = {
    "batch": (lambda: L.BatchNormalization(), 8),
    "batch renorm": (lambda: L.BatchNormalization(renorm=True, center=False), 8),
    "batch of positions": (lambda: L.BatchNormalization(axis=1), 8),
    "layer over positions": (lambda: L.LayerNormalization(axis=[1, 2]), 8),
    "rms": (lambda: L.RMSNormalization(epsilon=0.1), 8),
    "rms over all": (lambda: L.RMSNormalization(axis=[1, 2, 3], epsilon=0.1), 8),
    "unit": (lambda: L.UnitNormalization(), 8),
    "unit over all": (lambda: L.UnitNormalization(axis=[1, -1]), 8),
    "unit over positions": (lambda: L.UnitNormalization(axis=[1, 2]), 8),
    "groups": (lambda: L.GroupNormalization(4, scale=False), 4),  # pairs live or die together
    "one group": (lambda: L.GroupNormalization(1), 1),
    "instances": (lambda: L.GroupNormalization(-1, center=False), 8),
    "groups of one": (lambda: L.GroupNormalization(8, axis=3), 8),
}


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", NORMS)
def test_law(name, residual):
    build, size = NORMS[name]
    model = shake(normed(build()))
    coupling = couple(read(model))
    assert coupling.frozen == ()
    assert sizes(coupling) == {"conv": size}
    for seed in range(2):
        require_law(model, seed, residual)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.GroupNormalization(4, axis=1),
        lambda: L.LayerNormalization(axis=[2, 3]),
        lambda: L.UnitNormalization(axis=1),
    ],
)
def test_law_with_channels_first(layer):
    model = shake(normed(layer(), "channels_first"))
    assert couple(read(model)).frozen == ()
    require_law(model, 0)


OVER_CHANNELS = "mean and variance over channels change with each that goes; "


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: L.LayerNormalization(), f"{OVER_CHANNELS}RMSNormalization or GroupNormalization can do it exactly"),
        (lambda: L.LayerNormalization(axis=[1, -1]), OVER_CHANNELS),
        (lambda: L.LayerNormalization(rms_scaling=True), OVER_CHANNELS),  # it takes the mean away from the squares
        (
            lambda: L.GroupNormalization(2, axis=1),
            "groups are made along axis 1, so mean and variance go over the channels, which lie along axis 3; give the "
            "layer axis=3",
        ),
    ],
)
def test_what_is_frozen_and_why(layer, reason):
    model = shake(normed(layer()))
    coupling = couple(read(model))
    assert len(coupling.frozen) == 2
    assert all(f.reason.startswith(reason) for f in coupling.frozen), coupling.frozen
    require_law(model, 0)


def test_a_root_mean_square_of_fewer_needs_another_epsilon_and_scale():
    """Of 8 channels 2 stay: epsilon times 8 / 2, scale times its root; without either the law is broken."""
    model = shake(normed(L.RMSNormalization(epsilon=0.1, name="norm")))
    coupling = couple(read(model))
    keep = tuple(np.isin(np.arange(m.size), [1, 4]) | m.frozen for m in coupling.masks)
    plan = plan_from(coupling, keep)
    smaller, arrays = rebuild(model, plan), images(model)
    layer = smaller.get_layer("norm")
    taken = np.asarray(model.get_layer("norm").scale)[[1, 4]]
    assert layer.epsilon == pytest.approx(0.4)
    np.testing.assert_allclose(np.asarray(layer.scale), 2 * taken, rtol=1e-6)
    wanted = outputs(masked(model, plan), arrays)[0]
    np.testing.assert_allclose(outputs(smaller, arrays)[0], wanted, atol=1e-5)
    layer.epsilon = 0.1
    assert np.abs(outputs(smaller, arrays)[0] - wanted).max() > 1e-3
    layer.epsilon = 0.4
    layer.scale.assign(taken)
    assert np.abs(outputs(smaller, arrays)[0] - wanted).max() > 1e-3


def test_groups_go_whole():
    model = shake(normed(L.GroupNormalization(4, name="norm")))
    smaller = require_law(model, 1)
    layer = smaller.get_layer("norm")
    assert layer.gamma.shape[0] == 2 * layer.groups < 8
