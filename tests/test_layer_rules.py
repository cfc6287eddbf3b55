"""Rules of single layers where they are easy to get wrong: formats, axes, contractions, quantized and mixed layers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import images, outputs, shake
from selections import random_keep
from test_law import require_law

import keras_qcqp
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from

L = keras.layers
FIRST = {"data_format": "channels_first"}


def after_dense(layer: L.Layer, shape: tuple[int, ...] = (6, 6, 3), width: int = 6) -> keras.Model:
    """dense -> layer -> flatten -> dense"""
    given = keras.Input(shape, name="given")
    x = layer(L.Dense(width, name="before")(given))
    x = L.Flatten(name="flat")(x) if len(x.shape) > 2 else x
    return keras.Model(given, L.Dense(2, name="head")(x))


def free(model: keras.Model) -> dict[str, int]:
    return {m.name: m.size for m in couple(read(model)).masks if not m.frozen}


def reasons(model: keras.Model) -> list[str]:
    return [f.reason for f in couple(read(model)).frozen]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (lambda: L.Cropping2D(((1, 0), (2, 1)), **FIRST), (5, 4, 3), {"before": 3, "before/2": 3}),
        (lambda: L.Cropping1D((1, 2)), (12, 3), {"before": 6}),
        (lambda: L.Cropping3D(((1, 0), (0, 1), (0, 2)), **FIRST), (3, 3, 3, 2), {"before": 4, "before/2": 2}),
        (lambda: L.UpSampling2D((2, 3), **FIRST), (5, 4, 3), {"before": 6}),
        (lambda: L.UpSampling2D((2, 1), interpolation="bilinear", **FIRST), (5, 4, 3), {"before": 6}),
        (lambda: L.UpSampling3D((1, 2, 2), **FIRST), (3, 3, 3, 2), {"before": 6}),
        (lambda: L.ZeroPadding3D(((0, 0), (1, 0), (2, 1)), **FIRST), (3, 3, 3, 2), {"before": 6, "layer": 3}),
        (lambda: L.Flatten(**FIRST), (3, 4, 2), {"before": 6}),
        (lambda: L.Reshape((-1, 6)), (3, 4, 2), {"before": 6}),
        (lambda: L.Reshape((3, 4, 2, 3)), (3, 4, 2), {"before": 3}),
        (lambda: L.Permute((3, 1, 2)), (3, 4, 2), {"before": 6}),
        (lambda: L.RepeatVector(3), (4,), {"before": 6}),
        (lambda: L.Resizing(3, 9), (6, 6, 3), {"before": 6}),
        (lambda: L.Resizing(4, 4, crop_to_aspect_ratio=True), (6, 5, 3), {"before": 6}),
        (lambda: L.CenterCrop(9, 9), (6, 6, 3), {"before": 6}),
        (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (9, 3), {"before": 6}),
        (lambda: L.SeparableConv1D(4, 3, depth_multiplier=2, padding="same"), (9, 3), {"before": 6, "layer": 4}),
        (lambda: L.Conv1D(4, 3, dilation_rate=2, padding="causal"), (9, 3), {"before": 6, "layer": 4}),
        (lambda: L.Conv2DTranspose(4, 3, 2, output_padding=1), (4, 4, 3), {"before": 6, "layer": 4}),
        (lambda: L.Conv2DTranspose(4, 3, dilation_rate=2), (4, 4, 3), {"before": 6, "layer": 4}),
        (lambda: L.Conv3DTranspose(4, 2, 2, output_padding=1), (3, 3, 3, 2), {"before": 6, "layer": 4}),
        (lambda: L.Activation(L.LeakyReLU(0.1)), (4,), {"before": 6}),
        (lambda: L.Softmax(axis=(1, 2)), (4, 4, 3), {"before": 6}),
        (lambda: L.STFTSpectrogram("stft", frame_length=4), (20, 3), {"before": 6}),
    ],
)
@pytest.mark.parametrize("seed", [1])
def test_where_channels_go(layer, shape, expected, seed):
    made = layer()
    made.name = "layer"
    model = shake(after_dense(made, shape))
    coupling = couple(read(model))
    assert not coupling.frozen
    assert free(model) == expected
    require_law(model, seed)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: L.UpSampling2D(2, interpolation="bilinear", **FIRST), "UpSampling2D interpolates along axis 3, which"),
        (lambda: L.RandomFlip(**FIRST), "RandomFlip works along axis 3, which carries the channels"),
        (lambda: L.CenterCrop(3, 3, **FIRST), "CenterCrop works along axis 3, which carries the channels"),
        (lambda: L.GlobalMaxPooling2D(**FIRST), "GlobalMaxPooling2D works along axis 3, which carries the channels"),
        (
            lambda: L.Pipeline([L.RandomFlip(), L.Rescaling(2.0)]),
            "Pipeline with a Rescaling; call its layers one after",
        ),
        (lambda: L.Pipeline([L.RandomFlip(), L.RandomFlip(**FIRST)]), "RandomFlip in it works along axis 3, which"),
        (
            lambda: L.Activation(lambda x: x * 2),
            "activation 'lambda' is not known to work channel by channel; if it",
        ),
        (lambda: L.Activation("log_softmax"), "activation 'log_softmax' is not known to work channel by channel"),
        (lambda: L.Lambda(lambda x: x), "Lambda may do anything; write it with keras.ops on the tensors, or as a"),
    ],
)
def test_what_cannot_be_followed_is_said_and_kept(layer, reason):
    model = shake(after_dense(layer()))
    assert any(said.startswith(reason) for said in reasons(model)), reasons(model)
    assert free(model) == {}
    require_law(model, 0)


def test_colours_are_kept_only_where_they_are_pruned():
    given = keras.Input((6, 6, 3), name="given")
    x = L.RandomHue(0.1, name="hue")(given)
    x = L.Dense(3, name="dense")(x)
    model = keras.Model(given, L.Dense(2, name="head")(L.Flatten(name="flat")(x)))
    assert reasons(model) == []  # right behind the input nothing is lost
    wrong = after_dense(L.RandomHue(0.1), width=3)
    assert reasons(wrong) == ["RandomHue works on the three colours of an image; put it right behind the Input"]


def dotted(axes, shapes: tuple[tuple[int, ...], tuple[int, ...]], normalize: bool) -> keras.Model:
    """dense 6, dense 6 -> dot -> dense"""
    left, right = (keras.Input(shape, name=name) for shape, name in zip(shapes, "ab", strict=True))
    x = L.Dot(axes, normalize=normalize, name="dot")([L.Dense(6, name="x")(left), L.Dense(6, name="y")(right)])
    x = L.Flatten(name="flat")(x) if len(x.shape) > 2 else x
    return keras.Model([left, right], L.Dense(2, name="head")(x))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("residual", ["tied", "union"])
@pytest.mark.parametrize(
    ("axes", "shapes", "expected", "macs"),
    [
        (-1, ((4,), (4,)), {"x": 6, "dot": 1}, 6),
        (2, ((5, 4), (3, 4)), {"x": 6}, 5 * 3 * 6),
        ((1, 2), ((4,), (3, 4)), {"x": 6}, 3 * 6),
        ((2, 3), ((5, 4), (3, 2, 4)), {"x": 6}, 5 * 3 * 2 * 6),
        (1, ((5, 4), (5, 4)), {"y": 6}, 5 * 6 * 6),
        ((2, 1), ((5, 4), (6, 4)), {"y": 6}, 5 * 6 * 6),
        ((1, 2), ((6, 4), (3, 4)), {"x": 6}, 6 * 6 * 3),
    ],
)
def test_a_dot_product_is_exact(axes, shapes, expected, macs, normalize, residual):
    model = shake(dotted(axes, shapes, normalize))
    assert free(model) == expected
    inside = sum(int(np.prod(shape)) * 6 for shape in shapes) + model.get_layer("head").kernel.shape[0] * 2
    assert keras_qcqp.measure(model)["macs"] == inside + macs
    require_law(model, 2, residual)


@pytest.mark.skipif(not hasattr(L, "ReversibleEmbedding"), reason="this Keras has no ReversibleEmbedding")
@pytest.mark.parametrize("residual", ["tied", "union"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_also_the_head(tied, residual):
    """tokens -> embed -> + dense -> embed in reverse: both calls have one width"""
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    embed = L.ReversibleEmbedding(9, 6, tie_weights=tied, name="embed")
    x = embed(tokens)
    x = L.Add(name="sum")([x, L.Dense(6, activation="sigmoid", name="mix")(x)])
    model = shake(keras.Model(tokens, embed(x, reverse=True)))
    coupling = couple(read(model), residual=residual)
    assert coupling.frozen == ()
    if residual == "tied":
        assert [m.size for m in coupling.masks if not m.frozen] == [6]
    assert keras_qcqp.measure(model)["macs"] == 5 * 6 * 6 + 5 * 6 * 9
    smaller = require_law(model, 1, residual)
    assert smaller.get_layer("embed").output_dim < 6


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantized_layers_are_refused(mode):
    model = after_dense(L.ReLU(), shape=(8,))
    model.get_layer("before").quantize(mode)
    with pytest.raises(keras_qcqp.ModelError) as caught:
        keras_qcqp.prune(model, {"params": 0.5})
    assert str(caught.value) == (
        f"Layer 'before' (Dense) is quantized (mode '{mode}'); float weights were expected. Prune the float model "
        "first, then quantize the result."
    )


def test_quantized_layers_inside_wrappers_are_refused():
    inner = L.Dense(4, name="inner")
    model = after_dense(L.TimeDistributed(inner, name="each"), shape=(5, 3))
    inner.quantize("int8")
    with pytest.raises(
        keras_qcqp.ModelError, match="Layer 'inner' in 'each' \\(Dense\\) is quantized \\(mode 'int8'\\)"
    ):
        read(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_law_in_mixed_precision(policy):
    """Weights are exact; outputs differ by what 8 or 11 bits of mantissa leave."""
    keras.config.set_dtype_policy(policy)
    try:
        given = keras.Input((6, 6, 3), name="given")
        x = L.Conv2D(6, 3, padding="same", name="a")(given)
        x = L.ReLU(name="act")(L.BatchNormalization(name="bn")(x))
        x = L.Add(name="sum")([x, L.Conv2D(6, 1, name="b")(x)])
        y = L.Dense(2, name="head", dtype="float32")(L.GlobalAveragePooling2D(name="mean")(x))
        model = shake(keras.Model(given, y))
    finally:
        keras.config.set_dtype_policy("float32")
    coupling = couple(read(model))
    assert not coupling.frozen
    plan = plan_from(coupling, random_keep(coupling, 0))
    smaller, reference = keras_qcqp.rebuild(model, plan), keras_qcqp.masked(model, plan)
    assert smaller.get_layer("a").dtype_policy.name == policy
    got, wanted = (outputs(m, images(model))[0] for m in (smaller, reference))
    np.testing.assert_allclose(got, wanted, atol=0.05 * np.abs(wanted).max())


def first_format() -> keras.Model:
    """conv bn relu -> depthwise -> pool -> sum with [up crop conv] -> pad -> conv transpose -> flatten -> dense"""
    given = keras.Input((3, 8, 8), name="given")
    x = L.Conv2D(6, 3, padding="same", name="a", **FIRST)(given)
    x = L.ReLU(name="act")(L.BatchNormalization(axis=1, name="bn")(x))
    x = L.DepthwiseConv2D(3, padding="same", name="dw", **FIRST)(x)
    x = L.MaxPooling2D(2, name="pool", **FIRST)(x)
    y = L.Cropping2D(1, name="crop", **FIRST)(L.UpSampling2D(2, name="up", **FIRST)(x))
    y = L.Conv2D(6, 3, name="b", groups=2, **FIRST)(y)
    x = L.Add(name="sum")([x, y])
    x = L.PReLU(shared_axes=[2, 3], name="prelu")(L.ZeroPadding2D(1, name="pad", **FIRST)(x))
    x = L.Conv2DTranspose(5, 3, 2, padding="same", name="t", **FIRST)(x)
    x = L.Concatenate(axis=1, name="join")([x, L.SeparableConv2D(4, 1, name="s", **FIRST)(x)])
    x = L.Flatten(name="flat", **FIRST)(x)
    return keras.Model(given, L.Dense(3, name="head")(x), name="first_format")


def test_channels_first():
    """Coupled and rebuilt as its twin with channels last."""
    model = shake(first_format())
    coupling = couple(read(model))
    assert not coupling.frozen
    assert free(model) == {"a": 3, "t": 5, "s": 4}
    keep = random_keep(coupling, 1)
    plan = plan_from(coupling, keep)
    smaller, reference = keras_qcqp.rebuild(model, plan), keras_qcqp.masked(model, plan)
    counts = dict(zip((m.name for m in coupling.masks), (int(k.sum()) for k in keep), strict=True))
    assert smaller.get_layer("bn").gamma.shape == (2 * counts["a"],)
    assert smaller.get_layer("t").filters == counts["t"]
    assert smaller.get_layer("prelu").alpha.shape == (2 * counts["a"], 1, 1)
    assert smaller.count_params() < model.count_params()
    assert [y.shape for y in smaller.outputs] == [y.shape for y in reference.outputs]


def test_the_law_with_channels_first():
    given = keras.Input((3, 8, 8), name="given")
    x = L.Conv2D(6, 3, padding="same", name="a", **FIRST)(given)
    x = L.ReLU(name="act")(L.BatchNormalization(axis=1, name="bn")(x))
    x = L.AveragePooling2D(2, name="pool", **FIRST)(x)
    x = L.Concatenate(axis=1, name="join")([x, L.Conv2D(5, 3, padding="same", name="b", **FIRST)(x)])
    x = L.Flatten(name="flat", **FIRST)(x)
    model = shake(keras.Model(given, L.Dense(3, name="head")(x)))
    coupling = couple(read(model))
    assert free(model) == {"a": 6, "b": 5}
    plan = plan_from(coupling, random_keep(coupling, 1))
    smaller, reference = keras_qcqp.rebuild(model, plan), keras_qcqp.masked(model, plan)
    got, wanted = (_compiled(m, images(model)[0]) for m in (smaller, reference))
    np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())


def _compiled(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """TensorFlow's own kernels for CPUs know channels_last only; XLA computes both.

    (Not depthwise or grouped ones, though: XLA of TensorFlow 2.21 mixes up their channels where it fuses them.)
    """
    if keras.backend.backend() != "tensorflow":
        return outputs(model, [x])[0]
    import tensorflow as tf

    return tf.function(lambda x: model(x, training=False), jit_compile=True)(x).numpy()


def test_a_separable_convolution_over_another_axis_counts_its_multiplier():
    """Where it reads no channels that are followed, its pointwise step still reads `multiplier` times as many."""
    image = keras.Input((4, 4, 3))
    x = L.Permute((3, 1, 2))(L.Conv2D(5, 1)(image))
    model = keras.Model(image, L.SeparableConv2D(6, 3, depth_multiplier=2, padding="same")(x))
    spots, entering = 5 * 4, 4
    wanted = 4 * 4 * 3 * 5 + spots * 9 * entering * 2 + spots * entering * 2 * 6
    assert keras_qcqp.measure(model)["macs"] == wanted
