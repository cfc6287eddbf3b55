"""Taylor and Fisher criteria: finite differences, exact curvatures, labels that do not fit, the backends of Keras."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from importance_run import evidence_of, examples, kernel, main, require_equal, scored, small
from networks import shake
from test_backends import require_installed

from keras_qcqp.errors import DataError
from keras_qcqp.importance import criterion
from keras_qcqp.importance.score import kernels

L, ops = keras.layers, keras.ops


@pytest.fixture(scope="module")
def model():
    return small()


def smooth() -> keras.Model:
    """In float64, for finite differences: conv, batch norm, depthwise, separable, transposed, dense; all smooth."""
    form = {"dtype": "float64"}
    x = image = keras.Input((4, 4, 2), name="image", dtype="float64")
    x = L.BatchNormalization(name="bn", **form)(L.Conv2D(2, 2, name="conv", **form)(x))
    x = L.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh", name="dw", **form)(x)
    x = L.SeparableConv2D(3, 2, activation="tanh", name="separable", **form)(x)
    x = L.Conv2DTranspose(2, 2, activation="tanh", name="grow", **form)(x)
    x = L.GlobalAveragePooling2D(name="mean", **form)(x)
    return shake(keras.Model(image, L.Dense(2, activation="tanh", name="head", **form)(x), name="smooth"))


def squares(labels, outputs):
    """Of each example; Keras' own cross-entropy would go through float32."""
    return ops.mean(ops.square(ops.cast(labels, "float64")[:, None] - outputs), axis=-1)


def differences(evidence, x, y, eps=1e-4) -> dict[tuple[str, str], np.ndarray]:
    """Kernel -> [examples, channels...]: derivative of each example's loss by a factor on a channel pair."""
    found = {}
    for k in kernels(evidence.coupling):
        layer = evidence.model.get_layer(k.node.layer)
        variable = next(w for w in layer.weights if w.path.endswith(k.name))
        before = ops.convert_to_numpy(variable)
        free = [n for n in range(before.ndim) if n not in k.taps]
        sizes = [before.shape[n] for n in free]
        slopes = np.zeros((len(x), *sizes))
        for index in itertools.product(*map(range, sizes)):
            place = [slice(None)] * before.ndim
            for n, i in zip(free, index, strict=True):
                place[n] = i
            losses = []
            for factor in (1 + eps, 1 - eps):
                changed = before.copy()
                changed[tuple(place)] *= factor
                variable.assign(changed)
                losses.append(ops.convert_to_numpy(squares(y, evidence.model(x, training=False))))
            slopes[(slice(None), *index)] = (losses[0] - losses[1]) / (2 * eps)
        variable.assign(before)
        found[k.node.layer, k.name] = slopes
    return found


@pytest.mark.parametrize(("name", "batch", "count"), [("fisher", 8, 19), ("taylor", 64, 70)])
def test_derivatives_against_finite_differences(name, batch, count):
    """In float64 a step of 1e-4 is right to about 1e-8; the criteria round gradients and weights to float32 (6e-8)."""
    model = smooth()
    x, y = examples(count, dtype="float64")
    evidence = evidence_of(model, (x, y), loss=squares)
    merge = np.square if name == "fisher" else np.abs
    found = {
        (k.node.layer, k.name): s for k, s in zip(kernels(evidence.coupling), criterion(name)(evidence), strict=True)
    }
    for key, slopes in differences(evidence, x, y).items():
        parts = [merge(slopes[start : start + batch].mean(axis=0)) for start in range(0, count, batch)]
        wanted = np.mean(parts, axis=0)
        np.testing.assert_allclose(found[key].values, wanted, rtol=1e-4, atol=1e-6 * wanted.max(), err_msg=str(key))


ONE_BY_ONE = np.diag(np.linspace(0.5, 2, 8)).astype("float32")
"""A batch of 8 in which each input channel is seen by one example only, so that examples do not mix in a derivative."""


def linear(*widths: int, activation=None) -> keras.Model:
    x = given = keras.Input((8,))
    for k, width in enumerate(widths):
        last = k == len(widths) - 1
        x = L.Dense(width, use_bias=False, name=f"d{k}", activation=activation if last else None)(x)
    return shake(keras.Model(given, x))


def test_output_fisher_of_one_linear_output_is_the_gauss_newton_diagonal():
    """Signs go in the square: exact, but for the batch of 8 whose mean is taken."""
    model = linear(3, 1)
    first, second = kernel(model, "d0"), kernel(model, "d1")
    by_factor = np.diag(ONE_BY_ONE)[:, None] * first * second[:, 0]
    found = scored("output_fisher", evidence_of(model, ONE_BY_ONE))
    np.testing.assert_allclose(found["d0 in out"], by_factor**2 / 8 / 8, rtol=1e-5)


def require_near(found, wanted):
    """300 draws of a square: its relative deviation of up to 1.5 becomes 9% for one pair; five of these are allowed."""
    np.testing.assert_allclose(found, wanted, rtol=0.45)
    assert found.sum() == pytest.approx(wanted.sum(), rel=0.1)


@pytest.mark.parametrize("said", ["shape", "compile", "loss"])
def test_output_fisher_of_regression_approaches_the_gauss_newton_diagonal(said):
    """Plain values, by their shape or because a loss says so: of each output alone, not of a distribution."""
    model, loss, draws = linear(3, 2), None, np.tile(ONE_BY_ONE, (300, 1))
    if said == "shape":
        model = keras.Model(model.inputs, L.Reshape((2, 1))(model.outputs[0]))
    elif said == "compile":
        model.compile("sgd", "mse")
    else:
        loss = "mse"
    first, second = kernel(model, "d0"), kernel(model, "d1")
    outer = (np.diag(ONE_BY_ONE)[:, None, None] * first[..., None] * second) ** 2  # [input, hidden, output]
    middle = ((ONE_BY_ONE @ first)[..., None] * second) ** 2  # [example, hidden, output]
    found = scored("output_fisher", evidence_of(model, draws, loss=loss))
    require_near(found["d0 in out"], outer.sum(axis=2) / 64)
    require_near(found["d1 in out"], middle.sum(axis=0) / 64)


def test_output_fisher_of_a_classifier_approaches_the_true_fisher():
    """Of logits and of their softmax alike, without labels, the same for the same seed."""
    draws, found = np.tile(ONE_BY_ONE, (300, 1)), {}
    for activation in (None, "softmax"):
        evidence = evidence_of(linear(3, activation=activation), draws, seed=1)
        found[activation] = scored("output_fisher", evidence)["d0 in out"]
    weights = kernel(linear(3), "d0")
    logits = ONE_BY_ONE @ weights
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    require_near(found[None], (np.diag(ONE_BY_ONE)[:, None] * weights) ** 2 * p * (1 - p) / 64)
    np.testing.assert_allclose(found["softmax"], found[None], rtol=1e-3)


def test_output_fisher_is_seeded(model):
    x, _ = examples(16)
    first, again, other = (scored("output_fisher", evidence_of(model, x, seed=seed)) for seed in (1, 1, 2))
    require_equal(first, again)
    assert any((values != other[name]).any() for name, values in first.items())


LABELS = np.array([0, 1] * 4)
LABELS_REFUSED = {
    "class number": (LABELS + 2, None, r"The loss of labels of shape \(8,\) cannot be computed. Give class numbers"),
    "width": (np.zeros((8, 3)), None, r"The loss of labels of shape \(8, 3\) cannot be computed."),
    "nan": (np.full((8, 2), np.nan), "mse", "The loss has NaN or infinite derivatives by the weights of layer 'conv'"),
    "outputs": ([LABELS, LABELS], ["mse"], "labels for 2 outputs, but the model has 1: head."),
    "loss": (LABELS, "msee", "Unknown loss: "),
}


@pytest.mark.parametrize("case", LABELS_REFUSED)
def test_labels_that_the_loss_cannot_take_are_refused(case, model):
    labels, loss, message = LABELS_REFUSED[case]
    with pytest.raises(DataError, match=f"^{message}"):
        criterion("fisher")(evidence_of(model, (examples(8)[0], labels), loss=loss))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_agree(backend, tmp_path, run_python, model):
    """Fisher scores, and the network that recovery makes."""
    require_installed(backend)
    model.save(tmp_path / "net.keras")
    x, y = examples(40)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    main(tmp_path)
    environment = {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0" if backend == "jax" else ""
    process = run_python("tests/importance_run.py", tmp_path, **environment)
    assert process.returncode == 0, process.stderr
    here, there = dict(np.load(tmp_path / "tensorflow.npz")), dict(np.load(tmp_path / f"{backend}.npz"))
    assert here.pop("plan") == there.pop("plan")
    assert here.keys() == there.keys() and "conv in out" in here
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, rtol=1e-4, atol=1e-4 * np.abs(values).max(), err_msg=name)
    lost = {stage: np.square(here[stage] - here["original"]).mean() for stage in ("before", "after")}
    assert lost["after"] < lost["before"]
