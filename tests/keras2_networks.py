"""Small Keras 2 (`tf_keras`) networks, one for each thing that is said otherwise in Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

L = tf_keras.layers


def shake(model: Any, seed: int = 0) -> Any:
    """Gives every variable a value that matters, as `networks.shake` does for Keras 3."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.dtype.is_floating:
            low, high = (0.5, 2.0) if "variance" in variable.name or "gamma" in variable.name else (-0.5, 0.5)
            variable.assign(random.uniform(low, high, variable.shape))
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            layer.finalize_state()
    return model


def image_model(*layers: Any, shape: tuple[int | None, ...] = (8, 8, 4)) -> Any:
    x = image = L.Input(shape, name="image")
    for layer in layers:
        x = layer(x)
    return tf_keras.Model(image, x)


def residual() -> Any:
    """image -> conv bn relu -> conv bn (+) relu -> pool -> head, with operators instead of layers."""
    image = L.Input((8, 8, 3), name="image")
    x = tf.nn.relu(L.BatchNormalization(name="stem/bn")(L.Conv2D(8, 3, padding="same", name="stem/conv")(image)))
    y = L.BatchNormalization(name="b_bn")(L.Conv2D(8, 3, padding="same", name="b_conv")(x))
    x = tf.nn.relu(L.Conv2D(8, 3, padding="same", name="c_conv")(tf.nn.relu6(y) * 0.5) + x)
    x = tf.reduce_mean(x, axis=[1, 2])
    return tf_keras.Model(image, L.Dense(5, name="head")(x), name="residual")


def nested() -> Any:
    """Dict inputs and outputs, a nested model called twice, a shared layer, a frozen part."""
    a, b = L.Input((4,), name="a"), L.Input((4,), name="b")
    shared = L.Dense(4, name="shared")
    inner = tf_keras.Model({"a": a, "b": b}, {"y": L.Add(name="sum")([shared(a), shared(b)]), "z": b}, name="inner")
    inner.trainable = False
    c, d = L.Input((4,), name="c"), L.Input((4,), name="d")
    first = inner({"a": c, "b": d})
    second = inner({"a": first["y"], "b": shared(c)}, training=False)
    return tf_keras.Model({"d": d, "c": c}, [second["y"], {"z": first["z"], "w": L.Dense(2, name="w")(c)}])


def sequences() -> Any:
    """A model at every time step, recurrent layers of several kinds."""
    inner = tf_keras.Sequential([L.Conv2D(3, 3, input_shape=(6, 6, 2)), L.BatchNormalization(), L.Flatten()])
    return tf_keras.Sequential(
        [
            L.TimeDistributed(inner, input_shape=(4, 6, 6, 2)),
            L.GRU(4, return_sequences=True, reset_after=False),
            L.Bidirectional(L.LSTM(3, return_sequences=True)),
            L.TimeDistributed(L.Dense(3)),
            L.RNN([L.LSTMCell(3), L.GRUCell(2)], return_sequences=True),
            L.SimpleRNN(2),
        ]
    )


def attention() -> Any:
    tokens = L.Input((6,), name="tokens")
    x = L.Embedding(10, 8, mask_zero=True, input_length=6)(tokens)
    x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 4, name="mha")(x, x)]))
    return tf_keras.Model(tokens, L.GlobalAveragePooling1D()(x))


def states() -> Any:
    """Initial states of one recurrent layer come from another."""
    series = L.Input((5, 3), name="series")
    x, *state = L.LSTM(4, return_sequences=True, return_state=True, name="first")(series)
    return tf_keras.Model(series, L.LSTM(4, name="second")(x, initial_state=state))


def mixed_precision() -> Any:
    policy = tf_keras.mixed_precision.Policy("mixed_float16")
    return image_model(L.Conv2D(4, 3, dtype=policy), L.BatchNormalization(dtype=policy), L.Dense(2, dtype="float32"))


def hard_sigmoid_everywhere() -> Any:
    layers = [L.Dense(4, activation="hard_sigmoid", input_shape=(4,), name="d"), L.Activation("hard_sigmoid", name="a")]
    return tf_keras.Sequential(layers)


def frozen() -> Any:
    model = image_model(L.Conv2D(4, 3), L.BatchNormalization(), L.Conv2D(4, 3), L.SeparableConv2D(3, 2))
    for layer in model.layers[1:3]:
        layer.trainable = False
    return model


NETWORKS: dict[str, Callable[[], Any]] = {
    "residual": residual,
    "nested": nested,
    "sequences": sequences,
    "attention": attention,
    "states": states,
    "mixed_precision": mixed_precision,
    "hard_sigmoid": hard_sigmoid_everywhere,
    "frozen": frozen,
    "convolutions": lambda: image_model(
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.SeparableConv2D(4, 3, depthwise_regularizer="l2"),
        L.Conv2DTranspose(4, 3, strides=2, output_padding=1),
        L.Conv2D(4, 3, groups=2, dilation_rate=2, kernel_regularizer=tf_keras.regularizers.L1L2(0.1, 0.2)),
        L.Conv2D(3, (1, 2), kernel_constraint="non_neg", bias_initializer=tf_keras.initializers.Constant(0.3)),
    ),
    "normalisations": lambda: image_model(
        L.Normalization(), L.Rescaling([0.5, 1, 2, 3], 0.1), L.GroupNormalization(2), L.UnitNormalization()
    ),
    "activations": lambda: image_model(
        L.LeakyReLU(0.2),
        L.ThresholdedReLU(0.05),
        L.PReLU(shared_axes=[1, 2]),
        L.ReLU(6.0),
        L.ELU(),
        L.Softmax(),
        L.Dense(4, activation=tf.nn.leaky_relu),
        L.Activation(tf.nn.relu6),
        L.Dense(3, activation=lambda t: t * t),
        L.Activation("swish"),
        L.Lambda(lambda t, by: t * by, arguments={"by": 3}),
    ),
    "shapes": lambda: image_model(
        L.ZeroPadding2D(1),
        L.Cropping2D(1),
        L.UpSampling2D(interpolation="bilinear"),
        L.AveragePooling2D(3, 2, "same"),
        L.RandomFlip(),
        L.GaussianNoise(0.3),
        L.SpatialDropout2D(0.5),
        L.Resizing(6, 6),
        L.CenterCrop(4, 4),
        L.Permute((2, 1, 3)),
        L.Reshape((16, 4)),
        L.Conv1D(3, 3, padding="causal"),
        L.MaxPooling1D(2),
        L.Flatten(data_format="channels_first"),
        L.RepeatVector(2),
    ),
    "free_size": lambda: image_model(L.Conv2D(3, 3), L.GlobalMaxPooling2D(keepdims=True), shape=(None, None, 3)),
    "fixed_batch": lambda: tf_keras.Sequential([L.InputLayer(batch_input_shape=(5, 4), name="five"), L.Dense(2)]),
}
