"""Which loss is differentiated: the user's, that of `compile`, or the one a classifier suggests."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_qcqp.errors import DataError
from keras_qcqp.gradients import gradients_of
from keras_qcqp.losses import cross_entropy, ends_normalised, loss_of

L, ops = keras.layers, keras.ops
RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=(6, 3)).astype("float32")
CLASSES = np.array([0, 2, 1, 1, 0, 2])
ONE_HOT = np.eye(3)[CLASSES]
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
ENTROPY = -np.log(PROBABILITIES[range(6), CLASSES]).mean()


def ending_in(make) -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, make(L.Dense(3, name="first")(x)), name="ends")


def two_heads(nested: str = "list") -> keras.Model:
    """Outputs "z" of width 3 and "a" of width 1: not in the order of the alphabet."""
    x = keras.Input((4,), name="x")
    z, a = L.Dense(3, name="z")(x), L.Dense(1, name="a")(x)
    return keras.Model(x, [z, a] if nested == "list" else {"zebra": z, "ape": a}, name="two_heads")


def nested_softmax(x):
    inner = keras.Input((3,))
    both = keras.Model(inner, [L.Dense(2)(inner), L.Softmax()(inner)])
    return both(x)[1]


NORMALISED = [
    (lambda x: L.Softmax()(x), True),
    (lambda x: L.Activation("softmax")(x), True),
    (lambda x: L.Dense(3, activation="softmax")(x), True),
    (lambda x: L.Dense(3, activation="sigmoid")(x), True),
    (lambda x: ops.softmax(x), True),
    (lambda x: keras.Sequential([keras.Input((3,)), L.Dense(3, activation="softmax")])(x), True),
    (nested_softmax, True),
    (lambda x: x, False),
    (lambda x: L.ReLU()(L.Softmax()(x)), False),
    (lambda x: L.Dense(3, activation="tanh")(x), False),
]


@pytest.mark.parametrize(("make", "normalised"), NORMALISED)
def test_the_last_operation_says_whether_scores_are_logits(make, normalised):
    model = ending_in(make)
    assert ends_normalised(model) == normalised
    outputs = PROBABILITIES if normalised else SCORES
    for labels in (CLASSES, CLASSES[:, None], CLASSES.astype("float32"), ONE_HOT, ONE_HOT.astype("int64")):
        found = loss_of(model)(ops.convert_to_tensor(labels), ops.convert_to_tensor(outputs))
        assert float(found) == pytest.approx(ENTROPY, rel=1e-5)


def test_soft_labels_are_rows_of_probabilities():
    soft = np.roll(PROBABILITIES, 1, axis=0)
    found = cross_entropy(ending_in(lambda x: x))(ops.convert_to_tensor(soft), ops.convert_to_tensor(SCORES))
    assert float(found) == pytest.approx(-(soft * np.log(PROBABILITIES)).sum(axis=1).mean(), rel=1e-5)


def squares(y, p):
    return ops.square(y - p)


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError(), squares])
def test_a_loss_is_taken_from_the_user_or_from_compile(loss):
    y = np.roll(SCORES, 1, axis=0)
    wanted = pytest.approx(np.square(y - SCORES).mean(), rel=1e-5)
    model = ending_in(lambda x: x)
    assert float(loss_of(model, loss)(y, SCORES)) == wanted
    model.compile("sgd", loss)
    assert float(loss_of(model)(y, SCORES)) == wanted
    assert float(loss_of(model, "mae")(y, SCORES)) == pytest.approx(np.abs(y - SCORES).mean(), rel=1e-5)


def test_from_logits_of_compile_is_respected_and_a_loss_less_compile_is_none():
    model = ending_in(lambda x: x)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert float(loss_of(model)(CLASSES, SCORES)) == pytest.approx(ENTROPY, rel=1e-5)
    model.compile("sgd")
    assert float(loss_of(model)(ops.convert_to_tensor(CLASSES), SCORES)) == pytest.approx(ENTROPY, rel=1e-5)


Z, A = SCORES, SCORES[:, :1]
MSE, MAE = np.square(Z - 1).mean(), np.abs(A - 2).mean()
BY_NAME = {"list": ({"z": np.ones_like(Z), "a": np.full_like(A, 2)}), "dict": ({"zebra": Z * 0 + 1, "ape": A * 0 + 2})}


@pytest.mark.parametrize("nested", ["list", "dict"])
def test_losses_and_labels_of_several_outputs_are_matched_by_name(nested):
    """Keras sorts dictionaries by name, lists of outputs are as the user wrote them."""
    model, labels = two_heads(nested), BY_NAME[nested]
    outputs = [Z, A] if nested == "list" else {"zebra": Z, "ape": A}
    z, a = labels
    assert float(loss_of(model, {a: "mae", z: "mse"})(labels, outputs)) == pytest.approx(MSE + MAE, rel=1e-5)
    assert float(loss_of(model, {a: "mae"})(labels, outputs)) == pytest.approx(MAE, rel=1e-5)
    assert float(loss_of(model, {a: "mae"})({a: labels[a]}, outputs)) == pytest.approx(MAE, rel=1e-5)
    ordered = ["mse", None] if nested == "list" else [None, "mse"]
    assert float(loss_of(model, ordered)(labels, outputs)) == pytest.approx(MSE, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "weights", "wanted"),
    [
        (["mse", "mae"], None, MSE + MAE),
        (["mse", "mae"], [0.5, 3.0], 0.5 * MSE + 3 * MAE),
        ({"z": "mse", "a": "mae"}, {"a": 3.0, "z": 0.5}, 0.5 * MSE + 3 * MAE),
        ("mse", None, MSE + np.square(A - 2).mean()),
    ],
)
def test_compile_settings_of_several_outputs(loss, weights, wanted):
    model = two_heads()
    model.compile("sgd", loss, loss_weights=weights)
    labels = [BY_NAME["list"]["z"], BY_NAME["list"]["a"]]
    assert float(loss_of(model)(labels, [Z, A])) == pytest.approx(wanted, rel=1e-5)
    said_by_keras = model.compute_loss(y=labels, y_pred=[ops.convert_to_tensor(Z), ops.convert_to_tensor(A)])
    assert float(said_by_keras) == pytest.approx(wanted, rel=1e-5)


def test_a_single_output_in_a_dictionary():
    x = keras.Input((4,))
    model = keras.Model(x, {"scores": L.Dense(3, name="head")(x)})
    for labels in (CLASSES, {"scores": CLASSES}):
        labels = keras.tree.map_structure(ops.convert_to_tensor, labels)
        assert float(loss_of(model)(labels, {"scores": SCORES})) == pytest.approx(ENTROPY, rel=1e-5)
    assert float(loss_of(model, {"scores": "mse"})(Z * 0 + 1, {"scores": Z})) == pytest.approx(MSE, rel=1e-5)


def test_gradients_of_a_loss_with_labels_for_some_outputs_only():
    model = two_heads()
    loss = loss_of(model, {"a": "mse"})
    x = RANDOM.normal(size=(5, 4)).astype("float32")
    z, a = gradients_of(model, loss, [model.get_layer(name).kernel for name in "za"])([x], [None, np.ones((5, 1))])
    error = model.predict_on_batch(x)[1] - 1
    np.testing.assert_array_equal(z, np.zeros((4, 3)))
    np.testing.assert_allclose(a, 2 * x.T @ error / 5, rtol=1e-4, atol=1e-6)


def image_to_image() -> keras.Model:
    x = keras.Input((4, 4, 3))
    return keras.Model(x, L.Conv2D(2, 1)(x), name="image")


UNKNOWN = "is not compiled and does not end in one row of class scores, so its loss is unknown. Give loss=, or compile"
REFUSED = {
    "two outputs": (two_heads, None, f"Model 'two_heads' {UNKNOWN}"),
    "one number": (lambda: ending_in(L.Dense(1)), None, f"Model 'ends' {UNKNOWN}"),
    "images": (image_to_image, None, f"Model 'image' {UNKNOWN}"),
    "name of an output": (two_heads, {"zz": "mse"}, "loss for 'zz', which is no output. Did you mean 'z'? Known: a, z"),
    "number of losses": (two_heads, ["mse"], "loss for 1 outputs, but the model has 2: z, a."),
    "name of a loss": (two_heads, "msee", "Unknown loss: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_loss_that_is_unknown_is_refused(case):
    make, loss, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        loss_of(make(), loss)
    assert str(caught.value).startswith(message)


def test_labels_that_do_not_fit_the_losses_are_refused():
    loss = loss_of(two_heads(), ["mse", "mae"])
    for labels, message in (
        ([Z, None], "Output 'a' has a loss but no labels. Give labels, or loss= without that output."),
        ({"z": Z}, "Output 'a' has a loss but no labels."),
        ([Z], "labels for 1 outputs, but the model has 2: z, a."),
        ({"z": Z, "b": A}, "labels for 'b', which is no output. "),
    ):
        with pytest.raises(DataError, match=message):
            loss(labels, [Z, A])


@pytest.mark.parametrize("loss", ["binary_crossentropy", "mse", "hinge", "poisson", lambda y, p: keras.ops.abs(y - p)])
def test_losses_are_those_that_keras_trains_with(loss):
    """Labels [n] for outputs [n, 1] are not broadcast to [n, n]."""
    image = keras.Input((3,))
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(image))
    model.compile(loss=loss)
    x, y = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), (np.arange(8) % 2).astype("float32")
    np.testing.assert_allclose(loss_of(model)(y, model(x)), model.evaluate(x, y, verbose=0), rtol=1e-4)
