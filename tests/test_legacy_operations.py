"""TensorFlow functions inside Keras 2 graphs: every entry of the table against TensorFlow itself."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import outputs

from keras_qcqp import from_tf_keras
from keras_qcqp.errors import ModelError
from keras_qcqp.legacy.operations import OPERATIONS

CONSTANT = np.linspace(-1, 1, 8 * 4).reshape(8, 4).astype("float32")

POINTWISE = {
    "operators": lambda x, y: [
        x + y,
        x - y,
        x * y,
        x / (y * y + 1.0),
        2.0 - x,
        3.0 / (y * y + 1.0),
        -x,
        abs(x),
        (x * x) ** 2,
    ],
    "named": lambda x, y: [
        tf.add(x=x, y=y),
        tf.maximum(x, y),
        tf.minimum(x, 0.5),
        tf.subtract(y=y, x=x),
        tf.pow(x, 2.0),
    ],
    "constants": lambda x, y: [x + CONSTANT, tf.constant(CONSTANT) * y, x - tf.constant(2.0), tf.math.divide(x, 4.0)],
    "powers": lambda x, y: [
        f(x * x + 0.5) for f in (tf.sqrt, tf.math.rsqrt, tf.math.log, tf.math.log1p, tf.math.reciprocal)
    ],
    "curves": lambda x, y: [f(x) for f in (tf.square, tf.exp, tf.math.expm1, tf.sin, tf.cos)],
    "steps": lambda x, y: [f(x) for f in (tf.floor, tf.math.ceil, tf.sign, tf.math.erf)],
    "activations": lambda x, y: [
        f(x)
        for f in (
            tf.nn.relu,
            tf.nn.relu6,
            tf.sigmoid,
            tf.tanh,
            tf.nn.elu,
            tf.nn.selu,
            tf.nn.softplus,
            tf.nn.softsign,
            tf.nn.silu,
            tf.nn.gelu,
            tf.nn.leaky_relu,
        )
    ],
    "activation settings": lambda x, y: [
        tf.nn.gelu(x, approximate=True),
        tf.nn.leaky_relu(x, alpha=0.3),
        tf.nn.silu(x, beta=2.0),
        tf.nn.softmax(x),
        tf.nn.softmax(x, axis=1),
        tf.nn.log_softmax(x),
    ],
    "comparisons": lambda x, y: [
        tf.cast(f(x, y), "float32")
        for f in (tf.greater, tf.less, tf.greater_equal, tf.less_equal, tf.equal, tf.not_equal)
    ],
    "comparing operators": lambda x, y: [tf.cast(z, tf.float32) for z in (x == y, x != y, x > y)],
    "logic": lambda x, y: [
        tf.cast(z, tf.int32)
        for z in (tf.logical_and(x > 0.0, y > 0.0), tf.logical_or(x > 0.0, y > 0.0), tf.logical_not(x > 0.0))
    ],
    "sums": lambda x, y: [
        tf.add_n([x, y, x]),
        tf.math.squared_difference(x, y),
        tf.clip_by_value(x, -0.5, 0.5),
        tf.identity(x),
        tf.stop_gradient(x),
        tf.zeros_like(x),
        tf.ones_like(x),
    ],
    "keras backend": lambda x, y: [
        tf_keras.activations.hard_sigmoid(x),
        tf_keras.backend.sigmoid(y),
        tf_keras.activations.swish(x),
    ],
}
SHAPING = {
    "reductions": lambda x, y: [
        f(x, 1) for f in (tf.reduce_mean, tf.reduce_sum, tf.reduce_max, tf.reduce_min, tf.reduce_prod)
    ],
    "reduction settings": lambda x, y: [
        tf.reduce_mean(x, axis=[1, 2], keepdims=True),
        tf.cast(tf.reduce_any(x > 0.0, 1), "float32"),
        tf.cast(tf.reduce_all(x > 0.0, 1), "float32"),
    ],
    "slices": lambda x, y: [x[:, 1:], x[..., ::2], x[:, -1], x[:, 2:6:2, tf.newaxis], x[:, :, 1]],
    "joining": lambda x, y: [
        tf.concat([x, y], axis=-1),
        tf.concat((x, y, x), 1),
        tf.stack([x, y], 1),
        tf.stack([x, y], axis=-1),
    ],
    "splitting": lambda x, y: [*tf.split(x, 2, axis=-1), *tf.split(y, [1, 3], -1), tf.unstack(x, axis=1)[2]],
    "shapes": lambda x, y: [
        tf.reshape(x, [-1, 32]),
        tf.expand_dims(x, 1),
        tf.squeeze(tf.expand_dims(y, 1), 1),
        tf.squeeze(tf.expand_dims(y, -1), axis=[-1]),
        tf.transpose(x, [0, 2, 1]),
    ],
    "copies": lambda x, y: [
        tf.tile(x, [1, 2, 1]),
        tf.repeat(x, 3, axis=2),
        tf.pad(x, [[0, 0], [1, 2], [0, 0]]),
        tf.pad(x, [[0, 0], [1, 2], [1, 1]], "REFLECT"),
        tf.pad(x, [[0, 0], [1, 0], [0, 1]], constant_values=2.0),
    ],
    "matrices": lambda x, y: [
        tf.matmul(x, y, transpose_b=True),
        tf.matmul(x, y, transpose_a=True),
        tf.matmul(x, tf.constant(CONSTANT[:4])),
    ],
    "images": lambda x, y: [
        f(tf.reshape(x, [-1, 4, 4, 2]))
        for f in (
            lambda z: tf.image.resize(z, (8, 6)),
            lambda z: tf.image.resize(z, [2, 3], method="nearest"),
            lambda z: tf.nn.max_pool2d(z, 2, 2, "SAME"),
            lambda z: tf.nn.avg_pool2d(z, [1, 3, 3, 1], [1, 1, 1, 1], "VALID"),
            lambda z: tf.nn.max_pool2d(z, [2, 2], strides=[1, 2], padding="VALID"),
        )
    ],
}
CASES = {**POINTWISE, **SHAPING}


def converted(build):
    x, y = tf_keras.Input((8, 4), name="x"), tf_keras.Input((8, 4), name="y")
    old = tf_keras.Model([x, y], build(x, y))
    return old, from_tf_keras(old)  # which compares their outputs


@pytest.fixture(scope="module")
def pairs():
    return {name: converted(build) for name, build in CASES.items()}


def test_every_function_of_the_table_is_tried(pairs):
    tried = {getattr(layer, "symbol", None) for old, _ in pairs.values() for layer in old.layers} - {None}
    assert tried == set(OPERATIONS)


@pytest.mark.parametrize("name", CASES)
def test_functions_are_those_of_tensorflow(pairs, name):
    old, new = pairs[name]
    random = np.random.default_rng(5)
    x = [random.normal(size=(3, 8, 4)).astype("float32") for _ in range(2)]
    for a, b in zip(tf.nest.flatten(old(x)), outputs(new, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert {layer.name for layer in old.layers} <= {operation.name for operation in new.operations}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda x, y: tf.reshape(x, [tf.shape(x)[0], 32]),
            "Layer 'tf.compat.v1.shape.*' calls tf.compat.v1.shape, which",
        ),
        (lambda x, y: tf.split(x, [1, -1], axis=-1), r"Layer 'tf.split.*' \(TFOpLambda\) cannot be called in Keras 3"),
        (lambda x, y: tf.nn.max_pool2d(x[..., tf.newaxis], 2, 2, "SAME", "NCHW"), "data_format NCHW"),
        (lambda x, y: tf.linalg.matmul(x, y, adjoint_a=True), "unexpected keyword argument 'adjoint_a'"),
    ],
)
def test_what_has_no_counterpart_is_refused(build, text):
    with pytest.raises(ModelError, match=text):
        converted(build)


def test_a_wrong_counterpart_is_found_and_named(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "math.sin", OPERATIONS["math.cos"])
    with pytest.raises(ModelError, match=r"outputs differ by .*The first layer that differs is 'tf.math.sin\w*' "):
        converted(lambda x, y: tf.sin(x + 1.0) * y)
