"""Criteria against values by hand, finite differences and brute force; what the user brings along; missing data."""

from __future__ import annotations

import itertools

import keras
import networks
import numpy as np
import pytest
from importance_run import evidence_of, main, name_of
from networks import shake
from test_backends import require_installed
from test_einsum import around
from test_recurrent import residual_rnn

import keras_qcqp
from keras_qcqp.errors import DataError, QcqpError
from keras_qcqp.importance import CRITERIA, criterion
from keras_qcqp.importance.given import Given
from keras_qcqp.importance.reconstruction import Reconstruction
from keras_qcqp.importance.score import kernels

L, ops = keras.layers, keras.ops
WITHOUT_DATA = ("bn_scale", "geometric_median", "l1", "l2", "magnitude", "random")
LABELLED = ("fisher", "taylor")
UNLABELLED = ("activation", "output_fisher")  # and "reconstruction", which has tests of its own


def small() -> keras.Model:
    """conv 3 -> batch norm -> tanh -> depthwise -> mean -> dense 4 -> dense 2"""
    x = image = keras.Input((4, 4, 2), name="image")
    x = L.BatchNormalization(name="bn")(L.Conv2D(3, 3, name="conv")(x))
    x = L.DepthwiseConv2D(2, depth_multiplier=2, name="dw")(L.Activation("tanh", name="act")(x))
    x = L.Dense(4, activation="tanh", name="hidden")(L.GlobalAveragePooling2D(name="mean")(x))
    return shake(keras.Model(image, L.Dense(2, name="head")(x), name="small"))


@pytest.fixture(scope="module")
def model():
    return small()


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


# Sizes of weights


@pytest.mark.parametrize(("name", "power"), [("magnitude", 1), ("l1", 1), ("l2", 2)])
def test_sizes_of_weights_by_channel_pair(model, name, power):
    sums = {
        "conv in out": (np.abs(kernel(model, "conv")) ** power).sum((0, 1)),
        "dw in": (np.abs(kernel(model, "dw")) ** power).sum((0, 1, 3)),
        "hidden in out": np.abs(kernel(model, "hidden")) ** power,
        "head in out": np.abs(kernel(model, "head")) ** power,
    }
    if name == "magnitude":
        sums = {layer: v / np.sqrt((v**2).sum()) for layer, v in sums.items()}
    require_equal(scored(name, evidence_of(model)), sums)


def test_magnitude_of_a_kernel_of_zeros_is_zero():
    model = small()
    model.get_layer("hidden").kernel.assign(np.zeros((6, 4)))
    for name in ("magnitude", "geometric_median"):
        found = scored(name, evidence_of(model))
        values = next(v for layer, v in found.items() if layer.startswith("hidden"))
        assert not values.any() and all(np.isfinite(v).all() for v in found.values())


def test_scales_of_batch_norms_and_for_other_masks_sums_on_the_same_scale(model):
    gamma = np.abs(ops.convert_to_numpy(model.get_layer("bn").gamma))
    conv, hidden, head = (np.abs(kernel(model, name)) for name in ("conv", "hidden", "head"))
    wanted = {
        "bn in": gamma,
        "conv in": conv.sum((0, 1, 3)),
        "hidden out": hidden.sum(0),
        "head in": head.sum(1),
        "head out": head.sum(0),
    }
    wanted = {name: v if name == "bn in" else v / v.mean() * gamma.mean() for name, v in wanted.items()}
    found = scored("bn_scale", evidence_of(model))
    found["bn in"] = found.pop(next(name for name in found if name.startswith("bn ")))
    require_equal(found, wanted)


def test_bn_scale_without_any_batch_norm_has_mean_one():
    for values in scored("bn_scale", evidence_of(shake(around("abc,cd->abd", (4, 7), (4,))))).values():
        assert values.mean() == pytest.approx(1)


def test_distances_of_filters_by_brute_force(model):
    rows = {
        "conv out": np.moveaxis(kernel(model, "conv"), 3, 0),
        "dw in": np.moveaxis(kernel(model, "dw"), 2, 0),
        "hidden out": kernel(model, "hidden").T,
        "head out": kernel(model, "head").T,
    }
    wanted = {}
    for name, filters in rows.items():
        sums = np.array([sum(np.sqrt(((a - b) ** 2).sum()) for b in filters) for a in filters])
        wanted[name] = sums / sums.mean()
    require_equal(scored("geometric_median", evidence_of(model)), wanted)


def test_chance_is_seeded(model):
    first, again, other = (scored("random", evidence_of(model, seed=seed)) for seed in (1, 1, 2))
    require_equal(first, again)
    for name, values in first.items():
        assert ((values >= 0) & (values < 1)).all() and (values != other[name]).all()


# Derivatives


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
        found[k.key] = slopes
    return found


@pytest.mark.parametrize(("name", "batch", "count"), [("fisher", 8, 19), ("taylor", 64, 70)])
def test_derivatives_against_finite_differences(name, batch, count):
    """In float64 a step of 1e-4 is right to about 1e-8; the criteria round gradients and weights to float32 (6e-8)."""
    model = smooth()
    x, y = examples(count, dtype="float64")
    evidence = evidence_of(model, (x, y), loss=squares)
    merge = np.square if name == "fisher" else np.abs
    found = {k.key: s for k, s in zip(kernels(evidence.coupling), criterion(name)(evidence), strict=True)}
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


def test_activation_by_hand(model):
    x, _ = examples(70)  # a batch of 64 and one of 6

    def entering(layer):
        return keras.Model(model.inputs, model.get_layer(layer).input).predict(x, verbose=0).astype("float64")

    wanted = {}
    for layer, sides in (("conv", "in out"), ("dw", "in"), ("hidden", "in out"), ("head", "in out")):
        values, inputs = np.square(kernel(model, layer)), entering(layer)
        values = values.sum((0, 1, 3)) if layer == "dw" else values.reshape(-1, *values.shape[-2:]).sum(0)
        means = np.square(inputs).mean(axis=tuple(range(inputs.ndim - 1)))
        values = values * (means if values.ndim == 1 else means[:, None])
        wanted[f"{layer} {sides}"] = values / values.sum()
    require_equal(scored("activation", evidence_of(model, x)), wanted, 1e-4)


# What the user brings along


def both_kinds() -> keras.Model:
    """A kernel that is [..., out, in], and a layer of two kernels; all as wide as they are deep."""
    x = image = keras.Input((4, 4, 3), name="image")
    x = L.SeparableConv2D(3, 2, name="separable")(L.Conv2DTranspose(3, 2, name="grow")(x))
    return shake(keras.Model(image, L.Dense(2, name="head")(L.GlobalAveragePooling2D(name="mean")(x))))


def test_arrays_by_output_channel_and_by_pair(model):
    single, pairs = np.arange(3), np.arange(8).reshape(4, 2)
    found = scored({"conv": single, "head": pairs.tolist(), "dw": single}, evidence_of(model))
    require_equal(found, {"conv out": single, "head in out": pairs, "dw in": single})


def test_pairs_are_inputs_by_outputs_whatever_the_kernel_is_like():
    pairs = np.arange(9.0).reshape(3, 3)
    require_equal(scored({"grow": pairs}, evidence_of(both_kinds())), {"grow in out": pairs})
    require_equal(scored({"grow": pairs[1]}, evidence_of(both_kinds())), {"grow out": pairs[1]})


def test_of_several_kernels_the_one_with_outputs_is_meant():
    require_equal(scored({"separable": np.arange(3)}, evidence_of(both_kinds())), {"separable out": np.arange(3)})


GIVEN_REFUSED = {
    "unknown": ({"cnov": np.ones(3)}, "importance names layer 'cnov', which has no kernel. Did you mean 'conv'? Known"),
    "no kernel": ({"bn": np.ones(3)}, "importance names layer 'bn', which has no kernel. "),
    "shape": (
        {"hidden": np.ones((4, 6))},
        "importance of layer 'hidden' has shape [4, 6]; expected [4] for its output channels or [6, 4] for the pairs",
    ),
    "negative": ({"conv": [1, -1, 0]}, "importance of layer 'conv' must be finite and not negative."),
    "nan": ({"conv": [1, np.nan, 0]}, "importance of layer 'conv' must be finite and not negative."),
    "words": ({"conv": ["a", "b", "c"]}, "importance of layer 'conv' must be an array of numbers"),
}


@pytest.mark.parametrize("case", GIVEN_REFUSED)
def test_arrays_that_do_not_fit_are_refused(case, model):
    arrays, message = GIVEN_REFUSED[case]
    with pytest.raises(DataError) as caught:
        Given(arrays)(evidence_of(model))
    assert str(caught.value).startswith(message)


# Choosing a criterion


def test_criteria_are_found_by_name_and_kind():
    def own(evidence):
        return []

    assert criterion("l1") is CRITERIA["l1"] and criterion(own) is own
    assert criterion({"a": [1]}) == Given({"a": [1]})
    assert criterion(Reconstruction(places=4)) == Reconstruction(places=4)
    assert criterion(None) is CRITERIA["magnitude"] and criterion(None, True) is CRITERIA["reconstruction"]
    for unknown in ("fischer", 3, ["l1"]):
        with pytest.raises(QcqpError, match=r"Unknown importance '.*'\. .*Known: activation, bn_scale, "):
            criterion(unknown)
    with pytest.raises(QcqpError, match="Did you mean 'fisher'?"):
        criterion("fischer")


@pytest.mark.parametrize("name", (*LABELLED, *UNLABELLED, "reconstruction"))
def test_missing_examples_and_labels_are_asked_for(name, model):
    with pytest.raises(DataError) as caught:
        keras_qcqp.prune(model, {"macs": 0.5}, importance=name)
    assert str(caught.value) == (
        f"importance='{name}' looks at examples: give data=inputs or data=(inputs, labels), or choose a criterion that "
        "needs none, such as 'magnitude'."
    )
    if name in LABELLED:
        with pytest.raises(DataError) as caught:
            keras_qcqp.prune(model, {"macs": 0.5}, importance=name, data=examples(4)[0])
        assert str(caught.value) == (
            f"importance='{name}' needs labels: give data=(inputs, labels), or choose 'reconstruction' or "
            "'output_fisher', which need none."
        )


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


# All of them


def einsum() -> keras.Model:
    return around("abc,cde->abde", (4, 2, 7), (4,), bias_axes="de")


KINDS = [networks.inverted_residual, residual_rnn, einsum]


@pytest.mark.parametrize("make", KINDS)
def test_scores_of_all_kinds_of_layers_are_finite_and_fit(make):
    """Convolutions, depthwise and separable ones, sums, gates, recurrent kernels, and contractions."""
    model = shake(make())
    before = model.get_weights()
    x, y = examples(10, model.inputs[0].shape[1:], model.outputs[0].shape[-1])
    evidence = evidence_of(model, (x, y))
    for name in (*WITHOUT_DATA, *LABELLED, *UNLABELLED):
        scores = criterion(name)(evidence)
        assert any(s.values.any() for s in scores), name
        for s in scores:
            assert np.isfinite(s.values).all() and (s.values >= 0).all(), (name, s)
            assert s.values.shape == tuple(len(evidence.coupling.ids(s.node, axis)) for axis in s.axes), (name, s)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def by_norm(evidence):
    return CRITERIA["l2"](evidence)


@pytest.mark.parametrize("importance", [*WITHOUT_DATA, *LABELLED, *UNLABELLED, {"conv": [3, 1, 2]}, by_norm])
def test_prune_by_every_criterion_and_leave_the_model_as_it_was(importance, model):
    before = model.get_weights()
    data = examples(16) if importance in (*LABELLED, *UNLABELLED) else None
    options = {"importance": importance, "data": data, "recovery": (), "time_limit_s": 2}
    result = keras_qcqp.prune(model, {"macs": 0.7}, **options)
    assert (
        result.recovery is None and keras_qcqp.measure(result.model)["macs"] <= 0.7 * keras_qcqp.measure(model)["macs"]
    )
    if isinstance(importance, dict):
        assert result.plan.layers["conv"].out_index == ((0, 2),)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


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
