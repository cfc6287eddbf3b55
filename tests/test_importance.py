"""Criteria against values by hand and brute force; what the user brings along; missing data; all kinds of layers."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from importance_run import evidence_of, examples, kernel, require_equal, scored, small
from networks import shake
from test_einsum import around
from test_recurrent import residual_rnn

import keras_qcqp
from keras_qcqp.errors import DataError, QcqpError
from keras_qcqp.importance import CRITERIA, criterion
from keras_qcqp.importance.given import Given
from keras_qcqp.importance.reconstruction import Reconstruction

L, ops = keras.layers, keras.ops
WITHOUT_DATA = ("bn_scale", "geometric_median", "l1", "l2", "magnitude", "random")
LABELLED = ("fisher", "taylor")
UNLABELLED = ("activation", "output_fisher")  # and "reconstruction", which has tests of its own


@pytest.fixture(scope="module")
def model():
    return small()


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


def test_activation_of_a_grouped_convolution_reads_each_group_s_own_inputs():
    x = keras.random.normal((70, 5, 5, 4), seed=3)
    inputs = keras.Input((5, 5, 4))
    made = keras.layers.Conv2D(6, 1, name="first")(inputs)
    made = keras.layers.Conv2D(9, 3, groups=3, name="grouped")(made)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(made))
    model = keras.Model(inputs, outputs)
    means = np.square(keras.Model(inputs, model.get_layer("grouped").input).predict(x, verbose=0)).mean((0, 1, 2))
    values = np.square(kernel(model, "grouped")).sum((0, 1))  # [2, 9]: outputs 0 to 2 read inputs 0 and 1, and so on
    values = np.stack([values[:, o] * means[2 * (o // 3) : 2 * (o // 3) + 2] for o in range(9)], axis=1)
    found = scored("activation", evidence_of(model, np.asarray(x)))["grouped in out"]
    np.testing.assert_allclose(found, values / values.sum(), rtol=1e-4)


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
    for name in (*WITHOUT_DATA, "fisher", *UNLABELLED):  # "taylor" differs from "fisher" in a square only
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
