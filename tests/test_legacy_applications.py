"""The ready-made networks of Keras 2, with random weights that matter, convert to equal Keras 3 models."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import tf_keras

import keras_qcqp
from keras_qcqp import from_tf_keras

A = tf_keras.applications
FAST = {"MobileNetV3Small": (A.MobileNetV3Small, 32), "EfficientNetB0": (A.EfficientNetB0, 32)}
SLOW = {
    "ConvNeXtTiny": (A.ConvNeXtTiny, 64),
    "DenseNet121": (A.DenseNet121, 64),
    "EfficientNetV2B0": (A.EfficientNetV2B0, 64),
    "InceptionResNetV2": (A.InceptionResNetV2, 75),
    "InceptionV3": (A.InceptionV3, 75),
    "MobileNet": (A.MobileNet, 64),
    "MobileNetV2": (A.MobileNetV2, 64),
    "MobileNetV3Large": (A.MobileNetV3Large, 64),
    "NASNetMobile": (A.NASNetMobile, 64),
    "RegNetX002": (A.regnet.RegNetX002, 64),
    "RegNetY002": (A.regnet.RegNetY002, 64),
    "ResNet50": (A.ResNet50, 64),
    "ResNet50V2": (A.ResNet50V2, 64),
    "ResNetRS50": (A.resnet_rs.ResNetRS50, 64),
    "VGG16": (A.VGG16, 32),
    "Xception": (A.Xception, 71),
}
FOLLOWED = {**FAST, **SLOW}.keys() - {
    "ConvNeXtTiny",
    "InceptionResNetV2",
}  # converted LayerScale and Lambda have no rule


def cases():
    slow = [pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()]
    return [pytest.param(*case, id=name) for name, case in FAST.items()] + slow


@pytest.mark.parametrize(("build", "size"), cases())
def test_a_ready_made_network_computes_the_same(build, size, request):
    old = build(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    random = np.random.default_rng(0)
    for variable in old.weights:
        if len(variable.shape) < 2 and variable.dtype.is_floating:  # biases, statistics; kernels are random already
            variable.assign_add(random.uniform(0.0, 0.2, variable.shape))
    new = from_tf_keras(old)
    assert new.count_params() == old.count_params()
    x = 255 * random.random((2, size, size, 3)).astype("float32")
    expected, (found,) = old(x, training=False).numpy(), networks.outputs(new, [x])
    assert np.ptp(expected) > 0
    assert np.abs(expected - found).max() <= 1e-4 * np.abs(expected).max()
    frozen = keras_qcqp.couple(keras_qcqp.read(new)).frozen
    assert bool(frozen) != (request.node.callspec.id in FOLLOWED)
