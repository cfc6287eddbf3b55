"""Recovery without training: rows are what layers compute, fits are least squares, and what can be made up for is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import NETWORKS, images, outputs, shake
from selections import random_keep

import keras_qcqp
from keras_qcqp.coupling import couple
from keras_qcqp.errors import DataError, PlanError
from keras_qcqp.execution import Execution, Network
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from
from keras_qcqp.recovery.normal_equations import NormalEquations
from keras_qcqp.recovery.readers import reader_of
from keras_qcqp.recovery.rectifiers import Rectifier
from keras_qcqp.recovery.windows import random_places

L = keras.layers
RANDOM = np.random.default_rng(0)

LAYERS = {
    "conv same": ((7, 6, 4), lambda: L.Conv2D(5, 3, padding="same")),
    "conv strided": ((7, 6, 4), lambda: L.Conv2D(5, (3, 2), strides=2, padding="same")),
    "conv valid": ((7, 6, 4), lambda: L.Conv2D(5, 3, strides=(1, 2))),
    "conv dilated": ((9, 8, 4), lambda: L.Conv2D(5, 3, dilation_rate=2, padding="same")),
    "conv even": ((7, 6, 4), lambda: L.Conv2D(5, 4, strides=3, padding="same")),
    "conv grouped": ((7, 6, 4), lambda: L.Conv2D(6, 3, groups=2, padding="same")),
    "conv 1D causal": ((9, 4), lambda: L.Conv1D(5, 3, dilation_rate=2, padding="causal")),
    "conv 3D": ((4, 5, 3, 2), lambda: L.Conv3D(3, 2, padding="same")),
    "depthwise": ((7, 6, 4), lambda: L.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same")),
    "depthwise 1D": ((9, 4), lambda: L.DepthwiseConv1D(3, padding="same")),
    "dense": ((6,), lambda: L.Dense(3)),
    "dense on sequences": ((5, 6), lambda: L.Dense(3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrices_are_the_layer(name):
    shape, make = LAYERS[name]
    image = keras.Input(shape)
    model = shake(keras.Model(image, make()(image)))
    reader = reader_of(read(model).nodes[-1])
    x = RANDOM.normal(size=(2, *shape)).astype(np.float32)
    places = random_places(reader.output_shape(x), 10**6, RANDOM)  # all of them
    layer = model.layers[-1]
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    matrices = reader.matrices(kernel)
    assert np.array_equal(reader.kernel(matrices, kernel.shape), kernel)
    made = (reader.rows(x, places) @ matrices).transpose(1, 0, 2)
    wanted = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(
        made.reshape(wanted.shape) + keras.ops.convert_to_numpy(layer.bias), wanted, atol=1e-5, rtol=1e-5
    )


def test_rows_of_channels_first_are_the_same():
    first, last = (
        L.Conv2D(5, 3, padding="same", data_format=where, use_bias=False)
        for where in ("channels_first", "channels_last")
    )
    image, turned = keras.Input((4, 7, 6)), keras.Input((7, 6, 4))
    nodes = [read(keras.Model(x, layer(x))).nodes[-1] for x, layer in ((image, first), (turned, last))]
    x = RANDOM.normal(size=(2, 4, 7, 6)).astype(np.float32)
    a, b = map(reader_of, nodes)
    places = random_places(a.output_shape(x), 5, np.random.default_rng(3))
    np.testing.assert_array_equal(a.rows(x, places), b.rows(np.moveaxis(x, 1, -1), places))


def test_normal_equations_are_least_squares():
    x, y = RANDOM.normal(size=(2, 50, 4)) + 3, RANDOM.normal(size=(2, 50, 3))
    sums = NormalEquations()
    for part in range(0, 50, 20):
        sums.add(x[:, part : part + 20], y[:, part : part + 20])
    found = sums.solve(np.zeros((2, 4, 3)), ridge=0.0, intercept=True)
    for group in range(2):
        wanted = np.linalg.lstsq(np.column_stack([x[group], np.ones(50)]), y[group], rcond=None)[0]
        np.testing.assert_allclose(found.kernel[group], wanted[:4], atol=1e-8)
        np.testing.assert_allclose(found.constant[group], wanted[4], atol=1e-8)
    bare = sums.solve(np.zeros((2, 4, 3)), ridge=0.0, intercept=False)
    np.testing.assert_allclose(bare.kernel[0], np.linalg.lstsq(x[0], y[0], rcond=None)[0], atol=1e-8)


def test_a_ridge_keeps_what_no_row_speaks_of():
    x = np.zeros((1, 30, 3))
    x[:, :, 0] = RANDOM.normal(size=30)
    start = RANDOM.normal(size=(1, 3, 2))
    sums = NormalEquations()
    sums.add(x, 2 * x[:, :, :1] @ np.ones((1, 2)))
    found = sums.solve(start, ridge=1e-9, intercept=True)
    np.testing.assert_allclose(found.kernel[0, 1:], start[0, 1:])
    np.testing.assert_allclose(found.kernel[0, 0], 2.0, atol=1e-6)


def test_beyond_a_bound_it_does_not_matter_how_far():
    wanted, given = np.array([-2.0, -2.0, 3.0, 9.0, 9.0]), np.array([-5.0, 4.0, 1.0, 7.0, 2.0])
    assert Rectifier(0.0, 6.0).targets(wanted, given).tolist() == [-5.0, 0.0, 3.0, 7.0, 6.0]


def redundant(rectified: bool = False) -> tuple[keras.Model, list[int]]:
    """A network whose middle layer has channels that are sums of its others, and which those are."""
    x = image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="wide")(x)
    y = L.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="reader")(x)
    y = L.BatchNormalization(name="norm")(y)
    y = L.Flatten(name="flat")(L.ReLU(name="act")(y) if rectified else y)
    model = shake(keras.Model(image, L.Dense(4, name="head")(y)))
    kernel, bias = (keras.ops.convert_to_numpy(w).copy() for w in model.get_layer("wide").weights)
    kernel[..., 6], kernel[..., 7] = kernel[..., 0] - 2 * kernel[..., 3], kernel[..., 1] + kernel[..., 2]
    bias[6], bias[7] = bias[0] - 2 * bias[3], bias[1] + bias[2] + 5  # the last one only up to a constant
    model.get_layer("wide").set_weights([kernel, bias])
    return model, [6, 7]


def dropping(model: keras.Model, layer: str, channels: list[int]) -> keras_qcqp.Plan:
    coupling = couple(read(model))
    node = next(n for n in coupling.graph.nodes if n.name == layer)
    keep = [np.ones(m.size, bool) for m in coupling.masks]
    for channel in coupling.specs[node.name].outputs[0].ids[channels]:
        keep[coupling.mask_of[channel]][coupling.position[channel]] = False
    return plan_from(coupling, tuple(keep))


@pytest.mark.parametrize("rectified", [False, True])
def test_channels_that_others_can_replace_cost_nothing(rectified):
    model, gone = redundant(rectified)
    plan = dropping(model, "wide", gone)
    pruned, x = keras_qcqp.rebuild(model, plan), RANDOM.normal(size=(200, 8, 8, 3)).astype(np.float32)
    wanted = model.predict(x, verbose=0)
    assert np.abs(pruned.predict(x, verbose=0) - wanted).max() > 0.1
    found = keras_qcqp.recover(model, pruned, plan, x, ridge=1e-9)
    assert found.left == () and found.steps == ("least_squares",)
    inside = np.abs(found.model.predict(x, verbose=0) - wanted)
    # The constant of channel 7 is no constant at the border, where padding is zero: nothing else is lost.
    assert np.sqrt((inside**2).mean()) < 0.05 * wanted.std()


def test_bias_compensation_is_exact_for_constant_channels():
    model, _ = redundant()
    kernel, bias = (keras.ops.convert_to_numpy(w).copy() for w in model.get_layer("wide").weights)
    kernel[..., [2, 5]] = 0.0
    image = keras.Input((8, 8, 3), name="image")
    y = L.Conv2D(6, 1, use_bias=False, name="reader")(L.Conv2D(8, 3, padding="same", name="wide")(image))
    y = L.BatchNormalization(name="norm")(y)
    pointwise = shake(keras.Model(image, L.GlobalAveragePooling2D(name="pool")(y)))
    pointwise.get_layer("wide").set_weights([kernel, bias])
    plan = dropping(pointwise, "wide", [2, 5])
    pruned, x = keras_qcqp.rebuild(pointwise, plan), RANDOM.normal(size=(20, 8, 8, 3)).astype(np.float32)
    wanted = pointwise.predict(x, verbose=0)
    assert np.abs(pruned.predict(x, verbose=0) - wanted).max() > 0.1
    found = keras_qcqp.recover(pointwise, pruned, plan, x, steps=["bias"]).model
    np.testing.assert_allclose(found.predict(x, verbose=0), wanted, atol=1e-4)
    for name in ("reader", "wide"):
        np.testing.assert_array_equal(found.get_layer(name).kernel, pruned.get_layer(name).kernel)


def test_batch_norms_learn_the_statistics_of_all_examples():
    model, gone = redundant(rectified=True)
    plan = dropping(model, "wide", gone)
    pruned, x = keras_qcqp.rebuild(model, plan), RANDOM.normal(size=(90, 8, 8, 3)).astype(np.float32)
    found = keras_qcqp.recover(model, pruned, plan, x, steps="batch_norm").model
    network = Network(pruned)
    entering = Execution(network, [x]).array(network.nodes["norm"].inputs[0]).reshape(-1, 6)
    norm = found.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, entering.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, entering.var(axis=0), rtol=1e-4)


def test_nothing_of_the_users_is_changed():
    model, gone = redundant()
    plan = dropping(model, "wide", gone)
    pruned, x = keras_qcqp.rebuild(model, plan), RANDOM.normal(size=(20, 8, 8, 3)).astype(np.float32)
    before = [[np.array(w) for w in m.get_weights()] for m in (model, pruned)]
    keras_qcqp.recover(model, pruned, plan, x, steps=["batch_norm", "least_squares", "bias"])
    for m, weights in zip((model, pruned), before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(m.get_weights(), weights, strict=True))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a - b).sum() / max(np.square(a).sum(), 1e-9))


@pytest.mark.parametrize("residual", ["tied", "union"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_recovery_on_named_networks(name, residual):
    """Where nothing goes, nothing changes; where something goes, all stays finite."""
    model = shake(NETWORKS[name]())
    coupling, x = couple(read(model), residual=residual), images(model, count=40)
    everything = plan_from(coupling, tuple(np.full(m.size, not m.dead) for m in coupling.masks))
    same = keras_qcqp.recover(model, keras_qcqp.rebuild(model, everything), everything, x).model
    for got, wanted in zip(outputs(same, x), outputs(model, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    plan = plan_from(coupling, random_keep(coupling, 0))
    pruned = keras_qcqp.rebuild(model, plan)
    found = keras_qcqp.recover(model, pruned, plan, x, steps=["least_squares", "batch_norm"])
    assert all(np.isfinite(y).all() for y in outputs(found.model, x))
    fitted = keras_qcqp.recover(model, pruned, plan, x).model
    lost = [sum(map(_distance, outputs(model, x), outputs(m, x))) for m in (pruned, fitted)]
    assert lost[1] <= 1.05 * lost[0] + 1e-6


def test_what_cannot_be_fitted_is_said():
    x = signal = keras.Input((6, 3), name="signal")
    x = L.GRU(5, return_sequences=True, name="memory")(L.Conv1D(6, 3, padding="same", name="conv")(x))
    model = shake(keras.Model(signal, L.Dense(2, name="head")(L.Flatten(name="flat")(x))))
    plan = dropping(model, "conv", [1, 2])
    data = RANDOM.normal(size=(30, 6, 3)).astype(np.float32)
    found = keras_qcqp.recover(model, keras_qcqp.rebuild(model, plan), plan, data)
    assert found.left == ("'memory' (GRU): no fit is known for such a kernel",)


def test_a_sum_makes_up_for_its_other_operand():
    """The last operand of a residual addition is fitted to what the whole sum should be."""
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="stem")(image)
    short = L.Conv2D(5, 1, name="short")(x)
    long = L.Conv2D(5, 3, padding="same", name="long")(L.ReLU(name="act")(L.Conv2D(7, 3, padding="same", name="in")(x)))
    total = L.Add(name="sum")([short, long])
    model = shake(keras.Model(image, [total, short], name="branches"))
    plan = dropping(model, "stem", [0, 4])
    pruned, data = keras_qcqp.rebuild(model, plan), RANDOM.normal(size=(100, 8, 8, 3)).astype(np.float32)
    wanted, found = model.predict(data, verbose=0), keras_qcqp.recover(model, pruned, plan, data).model
    got = found.predict(data, verbose=0)
    lost = [float(np.square(a - b).mean() / b.var()) for a, b in zip(got, wanted, strict=True)]
    assert lost[0] < lost[1], "the sum is nearer to the original than the operand that was fitted first"


def test_wrong_steps_and_missing_examples_are_refused():
    model, gone = redundant()
    plan = dropping(model, "wide", gone)
    with pytest.raises(DataError, match="Unknown recovery step 'least_square'. Did you mean 'least_squares'?"):
        keras_qcqp.recover(model, model, plan, np.zeros((1, 8, 8, 3), np.float32), steps=["least_square"])
    with pytest.raises(DataError, match="recovery=bias looks at examples: give data=inputs"):
        keras_qcqp.prune(model, {"macs": 0.9}, recovery=["bias"])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_recovery_in_mixed_precision(policy):
    image = keras.Input((8, 8, 3), name="image")
    y = L.Conv2D(8, 3, padding="same", activation="relu", name="wide", dtype=policy)(image)
    y = L.Conv2D(4, 3, padding="same", name="reader", dtype=policy)(y)
    model = shake(keras.Model(image, L.GlobalAveragePooling2D(name="pool", dtype="float32")(y)))
    plan = dropping(model, "wide", [1, 6])
    pruned, x = keras_qcqp.rebuild(model, plan), RANDOM.normal(size=(60, 8, 8, 3)).astype(np.float32)
    wanted = model.predict(x, verbose=0)
    found = keras_qcqp.recover(model, pruned, plan, x).model
    lost = [np.square(m.predict(x, verbose=0) - wanted).mean() for m in (pruned, found)]
    assert found.get_layer("reader").dtype_policy.name == policy and lost[1] < 0.5 * lost[0]


def test_recovered_models_are_compiled_like_the_original():
    model, _ = redundant()
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1))
    x = RANDOM.normal(size=(30, 8, 8, 3)).astype(np.float32)
    result = keras_qcqp.prune(model, {"macs": 0.8}, data=x, time_limit_s=1)
    assert result.model.compiled and result.model.loss.name == model.loss.name
    labels = np.eye(4)[np.arange(30) % 4]
    assert np.isfinite(keras_qcqp.finetune(result, (x, labels), epochs=1).history["loss"][0])


def test_adapted_normalization_is_kept():
    x = (RANDOM.normal(size=(50, 5)) * 100 + 300).astype(np.float32)
    norm = L.Normalization(name="norm")
    norm.adapt(x)
    inputs = keras.Input((5,))
    model = shake(keras.Model(inputs, L.Dense(3, name="head")(L.Dense(8, activation="relu", name="a")(norm(inputs)))))
    plan = dropping(model, "a", [0, 3])
    pruned = keras_qcqp.rebuild(model, plan)
    same = keras_qcqp.recover(model, pruned, plan, x, steps=[]).model
    np.testing.assert_allclose(same.predict(x, verbose=0), pruned.predict(x, verbose=0), rtol=1e-5)


def test_a_plan_of_another_model_or_budget_is_refused():
    model, gone = redundant()
    plan, other = dropping(model, "wide", gone), dropping(model, "wide", [0, 1, 2])
    x = np.zeros((4, 8, 8, 3), np.float32)
    with pytest.raises(PlanError, match="not what the plan makes of .*: the weights of layer 'wide' have shapes"):
        keras_qcqp.recover(model, keras_qcqp.rebuild(model, plan), other, x)
    with pytest.raises(PlanError):
        keras_qcqp.recover(shake(NETWORKS["residual"]()), model, plan, x)
    with pytest.raises(PlanError, match="A Plan was expected, got str"):
        keras_qcqp.recover(model, model, "plan.json", x)
    with pytest.raises(DataError, match="ridge must be a number >= 0, got -1"):
        keras_qcqp.recover(model, model, plan, x, ridge=-1)
    with pytest.raises(DataError, match=r"Recovery steps are names, \(\) for none, got False"):
        keras_qcqp.prune(model, {"macs": 0.9}, data=x, recovery=False)
