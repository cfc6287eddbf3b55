"""Peak memory and file size that are told from the Keras graph, held against converted files."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from generator import CONVOLUTIONAL, Generator
from networks import NETWORKS, shake
from selections import random_keep

import tflite_tools
from keras_qcqp import resources
from keras_qcqp.coupling import couple
from keras_qcqp.deployed import deployed
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from
from keras_qcqp.rebuilder import rebuild

L = keras.layers
RECIPES = ("float32", "int8")
FEW = ("residual", "inverted_residual", "sequential")
REST = tuple(sorted(set(NETWORKS) - set(FEW) - {"volume"}))  # 3D pooling has no kernel in TensorFlow Lite
SHARED = {
    "models/resnet20_cifar10.keras": 1.02,
    "models/resnet20_cifar10_padA.keras": 1.02,
    "models/mlperf_kws_dscnn.keras": 1.02,
    "models/mlperf_resnet8_cifar10.keras": 1.03,
    "models/mlperf_sww_dscnn1d.keras": 1.03,
    "models/mlperf_ad_autoencoder.keras": 1.02,
    "models/mobilenetv2_100_224_imagenet.keras": 1.005,
    "models/densenet_fast_40_12_cifar10.keras": 1.2,  # int8: operators that convert scales, one for each concatenation
}
"""File -> how much larger than the file the promise may be."""


def converted(model: keras.Model, recipe: str) -> tflite_tools.TfliteFacts:
    random = np.random.default_rng(0)
    samples = [random.normal(size=(8, *x.shape[1:])).astype("float32") for x in model.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tflite_tools.RepresentativeDataWarning)
        return tflite_tools.read_facts(tflite_tools.convert(model, recipe, samples if recipe == "int8" else None))


def named(name: str) -> keras.Model:
    keras.backend.clear_session()
    return shake(NETWORKS[name]())


def generated(seed: int) -> keras.Model:
    keras.backend.clear_session()
    random = np.random.default_rng(seed)
    return shake(Generator(lambda n: int(random.integers(n)), **CONVOLUTIONAL).build())


def pruned(model: keras.Model, seed: int) -> tuple[keras.Model, dict[str, dict[str, int]]]:
    """The model with random channels, and what the coupling of the original promised for it: recipe -> resources."""
    coupling = couple(read(model))
    keep = random_keep(coupling, seed)
    counts = [int(k.sum()) for k in keep]
    promise = {r: {x.name: x.usage(counts) for x in resources.count_all(coupling, r)} for r in RECIPES}
    return rebuild(model, plan_from(coupling, keep)), promise


def require_told(model: keras.Model, promise: dict[str, int], recipe: str, ratio: float, exact: bool = True) -> None:
    try:
        facts = converted(model, recipe)
    except tflite_tools.ConversionError as error:
        assert "left operators in float" in str(error), error
        return
    assert facts.peak_bytes == promise["peak_bytes"] if exact else facts.peak_bytes <= promise["peak_bytes"]
    assert facts.size_bytes <= promise["tflite_bytes"] <= ratio * facts.size_bytes


def require_told_before_and_after(model: keras.Model, ratio: float, seed: int, exact_int8: bool = True) -> None:
    smaller, promise = pruned(model, seed)
    for recipe in RECIPES:
        exact = exact_int8 or recipe != "int8"
        require_told(model, resources.measure(model, recipe), recipe, ratio, exact)
        require_told(smaller, promise[recipe], recipe, ratio, exact)
        recounted = resources.measure(smaller, recipe)
        assert recounted["peak_bytes"] == promise[recipe]["peak_bytes"]
        assert recounted["tflite_bytes"] == promise[recipe]["tflite_bytes"]


@pytest.mark.parametrize("name", FEW)
def test_named_networks_before_and_after_pruning(name):
    """Small files are mostly names and tables, whose padding is counted as large as it may become."""
    require_told_before_and_after(named(name), ratio=1.2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_all_named_networks_before_and_after_pruning(name):
    require_told_before_and_after(named(name), ratio=1.5 if name == "frozen_parts" else 1.2, seed=2)


@pytest.mark.parametrize("seed", [3, 13])
def test_generated_networks_before_and_after_pruning(seed):
    require_told_before_and_after(generated(seed), ratio=1.25, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_generated_networks_before_and_after_pruning(seed):
    require_told_before_and_after(generated(seed), ratio=1.3, seed=seed)


@pytest.mark.parametrize("file", ["models/resnet20_cifar10.keras", "models/mlperf_kws_dscnn.keras"])
def test_trained_networks_before_and_after_pruning(shared_file, file):
    model = keras.models.load_model(shared_file(file), compile=False)
    require_told_before_and_after(model, SHARED[file], seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("file", SHARED)
@pytest.mark.parametrize("seed", [4, 5])
def test_all_trained_networks_before_and_after_pruning(shared_file, file, seed):
    """DenseNet's shared concatenations make the int8 peak an upper bound."""
    model = keras.models.load_model(shared_file(file), compile=False)
    require_told_before_and_after(model, SHARED[file], seed, exact_int8="densenet" not in file)


def of(*layers) -> keras.Model:
    """image -> conv -> the given layers."""
    keras.backend.clear_session()
    x = image = keras.Input((8, 8, 3), name="image")
    for layer in (L.Conv2D(4, 1, name="before"), *layers):
        x = layer(x)
    return shake(keras.Model(image, x, name="m"))


def branches(*layers, merge: keras.layers.Layer) -> keras.Model:
    """image -> conv -> several layers side by side -> merge"""
    keras.backend.clear_session()
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 1, name="before")(image)
    return shake(keras.Model(image, merge([layer(x) for layer in layers]), name="m"))


def kinds(model: keras.Model, recipe: str = "float32") -> list[str]:
    ops = deployed(couple(read(model)), recipe).ops.values()
    return [op.kind for op in ops if op.kind not in ("INPUT", "CONSTANT")]


CONV, SAME = "CONV_2D", {"padding": "same"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: of(L.BatchNormalization(), L.ReLU(6.0)), [CONV]),
        (lambda: of(L.ReLU(), L.BatchNormalization()), [CONV, "MUL", "ADD"]),
        (lambda: of(L.Activation("silu")), [CONV, "LOGISTIC", "MUL"]),
        (lambda: of(L.Activation("hard_swish")), [CONV, "HARD_SWISH"]),
        (lambda: of(L.Dropout(0.5), L.Activation("linear")), [CONV]),
        (lambda: of(L.SeparableConv2D(5, 3)), [CONV, "DEPTHWISE_CONV_2D", CONV]),
        (lambda: of(L.Dense(5, activation="relu")), [CONV, "FULLY_CONNECTED"]),
        (lambda: of(L.BatchNormalization(), L.Dense(5)), [CONV, "FULLY_CONNECTED"]),
        (lambda: of(L.ReLU(), L.BatchNormalization(), L.Dense(5)), [CONV, "FULLY_CONNECTED"]),
        (lambda: of(L.ReLU(), L.Rescaling(0.5, 1), L.Conv2D(5, 3)), [CONV, CONV]),
        (lambda: of(L.ReLU(), L.Rescaling(0.5, 1), L.Conv2D(5, 3, **SAME)), [CONV, "MUL", "ADD", CONV]),
        (lambda: of(L.ZeroPadding2D(1), L.Conv2D(5, 3)), [CONV, CONV]),
        (lambda: of(L.ZeroPadding2D(1), L.Conv2D(5, 3, 2)), [CONV, "PAD", CONV]),
        (lambda: of(L.Reshape((64, 4)), L.Reshape((8, 32))), [CONV, "RESHAPE"]),
        (lambda: of(L.Reshape((64, 4)), L.Conv1D(5, 3), L.ReLU()), [CONV, "RESHAPE", CONV, "RESHAPE"]),
        (lambda: of(L.GlobalAveragePooling2D(), L.Softmax()), [CONV, "MEAN", "SOFTMAX"]),
        (lambda: of(L.PReLU()), [CONV, "PRELU"]),
        (lambda: of(L.UpSampling2D()), [CONV, "RESHAPE", "TILE", "RESHAPE", "TILE", "RESHAPE"]),
        (
            lambda: branches(L.Conv2D(4, 1, name="b"), L.Conv2D(4, 1, name="a"), L.Identity(), merge=L.Add(name="sum")),
            [CONV, CONV, CONV, "ADD", "ADD"],
        ),
        (
            lambda: branches(L.Identity(), L.Conv2D(4, 1, name="b"), L.Conv2D(4, 1, name="c"), merge=L.Add(name="sum")),
            [CONV, CONV, "ADD", CONV, "ADD"],  # as soon as it can be
        ),
    ],
)
def test_layers_become_operators(model, expected):
    """As the converter writes them; the conversion itself is in the test below."""
    assert kinds(model()) == expected
    assert [op.name for op in converted(model(), "float32").operators] == expected


def test_an_activation_is_not_fused_where_others_read_the_sum():
    keras.backend.clear_session()
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 1, name="a")(image)
    model = keras.Model(image, L.Concatenate()([x, L.ReLU()(x)]))
    assert kinds(model) == ["CONV_2D", "RELU", "CONCATENATION"]


def test_operands_of_another_scale_are_converted_in_integer_files():
    """The scale of a sigmoid is prescribed; a concatenation wants one scale for all."""
    model = branches(L.Activation("sigmoid", name="gate"), L.Conv2D(4, 1, name="x"), merge=L.Concatenate(name="z"))
    assert kinds(model, "float32") == ["CONV_2D", "LOGISTIC", "CONV_2D", "CONCATENATION"]
    assert kinds(model, "int8") == ["CONV_2D", "LOGISTIC", "QUANTIZE", "CONV_2D", "CONCATENATION"]


@pytest.mark.parametrize(
    "layer", [L.LayerNormalization(), L.GroupNormalization(2), L.Conv2D(5, 1, data_format="channels_first")]
)
def test_what_is_not_known_is_counted_too_large(layer):
    model = of(layer)
    promise = resources.measure(model)
    if "channels_first" in str(layer.get_config()):  # only a GPU converts it
        assert promise["peak_bytes"] >= 4 * 3 * 8 * 8 * 4
        return
    facts = converted(model, "float32")
    assert facts.peak_bytes <= promise["peak_bytes"] <= 2 * facts.peak_bytes
    assert facts.size_bytes <= promise["tflite_bytes"]


def test_the_peak_of_a_chain_by_hand():
    """8x8x3 -> 8x8x4 -> 4x4x6: the first convolution holds its input and output."""
    coupling = couple(read(of(L.Conv2D(6, 1, strides=2, name="next"))))
    for recipe, size in (("float32", 4), ("int8", 1)):
        peak = resources.resource(coupling, "peak_bytes", recipe)
        assert peak.usage([m.size for m in coupling.masks]) == size * 64 * (3 + 4)
        assert peak.constant == 0 and not peak.quadratic
        assert 1 <= len(peak.steps) <= 2  # one for each convolution, without what is never the greatest


def test_steps_that_are_never_the_greatest_are_left_out():
    """The pooled tensors are smaller, however many of the four channels are kept."""
    coupling = couple(read(of(L.MaxPooling2D(), L.MaxPooling2D(), L.MaxPooling2D())))
    (step,) = resources.resource(coupling, "peak_bytes").steps
    assert step.name == "m_1/before_1/convolution"


def test_shares_of_the_peak_are_those_of_the_worst_moment():
    coupling = couple(read(named("residual")))
    alive = np.ones(len(coupling.mask_of), bool)
    shares = resources.by_layer(coupling, "peak_bytes", alive)
    assert sum(shares.values()) == resources.measure(named("residual"))["peak_bytes"]
    assert (
        sum(resources.by_layer(coupling, "tflite_bytes", alive, "int8").values())
        == (resources.measure(named("residual"), "int8")["tflite_bytes"])
    )


def test_free_sizes_cannot_be_counted():
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, L.Conv2D(4, 3, name="conv")(image))
    assert set(resources.measure(model)) == {"params", "weight_bytes"}
    for name in ("peak_bytes", "tflite_bytes"):
        with pytest.raises(BudgetError, match=f"'{name}' cannot be counted: the output of 'image' has unknown size"):
            resources.resource(couple(read(model)), name)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(BudgetError) as caught:
        resources.measure(named("chain"), "int4")
    assert str(caught.value) == "Unknown recipe 'int4'. Did you mean 'int8'? Known: float32, int8."


def test_what_is_computed_twice_runs_once():
    """The converter merges both pools and both activations, though they are layers of their own."""
    pools = [L.MaxPooling2D(2, name=name) for name in "ab"]
    model = branches(*pools, merge=L.Concatenate(name="c"))
    assert kinds(model) == ["CONV_2D", "MAX_POOL_2D", "CONCATENATION"]
    assert converted(model, "float32").peak_bytes == resources.measure(model)["peak_bytes"]
    other = branches(pools[0], L.MaxPooling2D(3, 2, padding="same", name="b"), merge=L.Concatenate(name="c"))
    assert kinds(other).count("MAX_POOL_2D") == 2


@pytest.mark.parametrize("name", ["residual", "option_a"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_union_residuals_cost_what_was_promised_at_most(name, recipe):
    model = named(name)
    coupling = couple(read(model), residual="union")
    keep = random_keep(coupling, 3)
    counts = [int(k.sum()) for k in keep]
    smaller = rebuild(model, plan_from(coupling, keep))
    facts, recounted = converted(smaller, recipe), resources.measure(smaller, recipe)
    promise = {r.name: r.usage(counts) for r in resources.count_all(coupling, recipe)}
    assert facts.peak_bytes == recounted["peak_bytes"] <= promise["peak_bytes"]
    assert facts.size_bytes <= recounted["tflite_bytes"] <= promise["tflite_bytes"]
