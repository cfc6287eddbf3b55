"""What is lost after reconstruction: elimination against brute force, scores against measured losses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import NETWORKS, images, shake

import keras_qcqp
from keras_qcqp import keras_graph
from keras_qcqp.coupling import couple
from keras_qcqp.errors import DataError
from keras_qcqp.execution import Network
from keras_qcqp.graph import read
from keras_qcqp.importance.bench import Bench
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.mask_readers import find_readers, gather
from keras_qcqp.importance.probing import Divergence, outputs_of
from keras_qcqp.importance.reconstruction import Reconstruction, _shared_out
from keras_qcqp.losses import classifies
from keras_qcqp.recovery.elimination import Reading, eliminate
from keras_qcqp.recovery.following import add_constant, following
from keras_qcqp.samples import Samples

L = keras.layers
JOINED = ["residual", "option_a", "residual_stage", "inverted_residual"]
PRUNED = [("residual", "tied"), ("chain", "tied"), *((name, "union") for name in JOINED)]
QUICK = Reconstruction(probes=(0.25, 0.75))
RANDOM = np.random.default_rng(0)


def reading(num_channels: int, taps: int, outputs: int) -> tuple[Reading, np.ndarray]:
    """A reader of random correlated inputs, and its rows."""
    size = num_channels * taps
    rows = RANDOM.normal(size=(400, size)) @ RANDOM.normal(size=(size, size))
    rows -= rows.mean(axis=0)
    inputs = np.arange(size).reshape(taps, num_channels).T
    return Reading(rows.T @ rows / len(rows), RANDOM.normal(size=(size, outputs)), inputs), rows


def residual(rows: np.ndarray, kernel: np.ndarray, kept: np.ndarray) -> float:
    """Share of the output that a least-squares fit of the kept inputs misses."""
    wanted = rows @ kernel
    fit = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)[0] if len(kept) else np.zeros((0, kernel.shape[1]))
    return float(np.square(wanted - rows[:, kept] @ fit).sum() / np.square(wanted).sum())


@pytest.mark.parametrize("taps", [1, 3])
def test_elimination_costs_what_fits_miss(taps):
    one, rows = reading(6, taps, 4)
    found = eliminate([one], 6, ridge=1e-12, stops=[2, 4, 6])
    assert sorted(found.order.tolist()) == list(range(6))
    for gone in range(1, 7):
        kept = np.sort(one.inputs[found.order[gone:]].ravel())
        np.testing.assert_allclose(found.costs[:gone].sum(), residual(rows, one.kernel, kept), rtol=1e-6, atol=1e-9)
    kept = np.sort(one.inputs[found.order[2:]].ravel())
    fit = np.linalg.lstsq(rows[:, kept], rows @ one.kernel, rcond=None)[0]
    np.testing.assert_allclose(found.kernels[2][0][kept], fit, atol=1e-6)
    assert not found.kernels[2][0][one.inputs[found.order[:2]].ravel()].any()
    assert not found.kernels[6][0].any()


def test_elimination_takes_the_cheapest_first():
    one, rows = reading(5, 1, 3)
    first = eliminate([one], 5, ridge=1e-12, stops=[]).order[0]
    alone = [residual(rows, one.kernel, np.delete(np.arange(5), j)) for j in range(5)]
    assert first == int(np.argmin(alone))


def test_several_readers_share_an_order_and_add_up():
    (a, rows_a), (b, rows_b) = reading(5, 1, 3), reading(5, 2, 2)
    found = eliminate([a, b], 5, ridge=1e-12, stops=[])
    kept = found.order[2:]
    total = sum(residual(rows, r.kernel, np.sort(r.inputs[kept].ravel())) for r, rows in ((a, rows_a), (b, rows_b)))
    np.testing.assert_allclose(found.costs[:2].sum(), total, rtol=1e-6)


def twins() -> keras.Model:
    """conv with two equal channels -> conv -> dense on classes"""
    x = image = keras.Input((8, 8, 3), name="image")
    x = L.ReLU(name="act")(L.Conv2D(6, 3, padding="same", name="a")(x))
    x = L.ReLU(name="act2")(L.Conv2D(5, 3, padding="same", name="b")(x))
    model = shake(keras.Model(image, L.Dense(4, name="head")(L.GlobalAveragePooling2D(name="pool")(x))))
    kernel, bias = (keras.ops.convert_to_numpy(w).copy() for w in model.get_layer("a").weights)
    kernel[..., 4], bias[4] = kernel[..., 1], bias[1]
    model.get_layer("a").set_weights([kernel, bias])
    return model


def evidence_of(model: keras.Model, count: int = 64, labels: bool = True, residual: str = "tied") -> Evidence:
    arrays = tuple(images(model, count=count))
    samples = Samples(arrays, np.zeros(count, int) if labels else None)
    return Evidence(couple(read(model), residual=residual), keras_graph.weight_values(model), model, samples)


def moved_by(model: keras.Model, other: keras.Model, samples: Samples, loss: str | None = None) -> float:
    return Divergence.of(model, samples, loss)(outputs_of(other, samples))


def test_one_of_two_equal_channels_costs_nothing():
    scores = {s.node.name: s.values for s in Reconstruction(ridge=1e-6)(evidence_of(twins()))}
    assert set(scores) == {"a", "b"}
    cheapest = np.sort(scores["a"])
    assert min(scores["a"][1], scores["a"][4]) == cheapest[0] < 1e-3 * cheapest[1]


def test_scores_add_up_to_the_measured_divergence():
    """At a probe, what the dropped channels were worth is how far the outputs moved."""
    model = twins()
    found = evidence_of(model)
    criterion = Reconstruction(probes=(0.5,), num_probed=64, ridge=1e-6)
    (score,) = (s for s in criterion(found) if s.node.name == "b")
    order = np.argsort(score.values, kind="stable")
    keep = [np.ones(m.size, bool) for m in found.coupling.masks]
    (mask,) = np.unique(found.coupling.mask_of[found.coupling.specs["b"].outputs[0].ids])
    keep[mask][order[:2]] = False
    plan = keras_qcqp.plan.plan_from(found.coupling, tuple(keep))
    pruned = keras_qcqp.rebuild(model, plan)
    recovered = keras_qcqp.recover(model, pruned, plan, found.samples, ridge=1e-6).model
    moved = moved_by(model, recovered, found.samples)
    # Recovery takes all rows and fits the layers around too, so it may do a little better than the measurement.
    assert moved <= 1.5 * score.values[order[:2]].sum() + 1e-6
    assert score.values[order[:2]].sum() <= 1.0 + 20 * moved


def test_what_is_measured_is_shared_out_and_never_falls():
    order, costs = np.array([2, 0, 3, 1]), np.array([1.0, 3.0, 2.0, 4.0])
    values = _shared_out(order, costs, {2: 0.4, 3: 0.5})
    np.testing.assert_allclose(values[order], [0.1, 0.2, 0.2, 0.2])  # 0.1, 0.3, 0.1, 4 x 0.1 / 2 before pooling
    assert values.sum() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("name", "residual"), [*((n, "union") for n in JOINED), ("residual", "tied"), ("chain", "tied")]
)
def test_prune_and_recover_with_examples(name, residual):
    model = shake(NETWORKS[name]())
    data = images(model, count=48)
    result = keras_qcqp.prune(model, {"macs": 0.6}, data=data, residual=residual, importance=QUICK, time_limit_s=2)
    assert keras_qcqp.measure(result.model)["macs"] <= 0.6 * keras_qcqp.measure(model)["macs"]
    assert result.recovery is not None and result.recovery.steps == ("least_squares",)
    sliced = keras_qcqp.rebuild(model, result.plan)
    samples = Samples(tuple(data))
    assert moved_by(model, result.model, samples) < moved_by(model, sliced, samples)


def test_readers_that_cannot_be_fitted_are_measured_as_they_are():
    x = signal = keras.Input((6, 3), name="signal")
    x = L.GRU(5, return_sequences=True, name="memory")(L.Conv1D(6, 3, padding="same", name="conv")(x))
    model = shake(keras.Model(signal, L.Dense(2, name="head")(L.Flatten(name="flat")(x))))
    scores = {s.node.name: s.values for s in Reconstruction(probes=(0.5,))(evidence_of(model, labels=False))}
    assert scores["conv"].sum() > 0 and scores["memory"].sum() > 0


def test_without_examples_it_says_what_to_do():
    with pytest.raises(DataError, match="importance='reconstruction' looks at examples: give data=inputs"):
        keras_qcqp.prune(twins(), {"macs": 0.5}, importance="reconstruction")


def test_what_counts_as_class_scores():
    image = keras.Input((4,))
    logits, soft = L.Dense(3)(image), L.Dense(3, activation="softmax")(image)
    assert classifies(keras.Model(image, soft))
    assert not classifies(keras.Model(image, logits))
    assert classifies(keras.Model(image, logits), labels=np.arange(5))
    assert classifies(keras.Model(image, logits), loss="sparse_categorical_crossentropy")
    assert not classifies(keras.Model(image, logits), loss="mse")
    assert not classifies(keras.Model(image, [logits, soft]))


def test_divergence_is_zero_for_the_original_and_grows():
    model = twins()
    samples = evidence_of(model).samples
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    losses = ("sparse_categorical_crossentropy", "mse")
    np.testing.assert_allclose([moved_by(model, other, samples, loss) for loss in losses], 0.0, atol=1e-9)
    other.get_layer("head").kernel.assign(other.get_layer("head").kernel * 1.5)
    assert min(moved_by(model, other, samples, loss) for loss in losses) > 1e-3


def test_a_bench_measures_what_the_changed_network_gives():
    """In any order of the masks, whatever it remembers, and leaves its weights as they were."""
    model = shake(NETWORKS["residual"]())
    found = evidence_of(model, count=32)
    network = Network(model)
    readers = {k: r for k, r in find_readers(found.coupling, network).items() if r.fitted}
    gathered = gather(network, readers, found.samples, 8, 0)
    bench = Bench(model, found.coupling, found.samples)
    for number in [*readers, *reversed(readers)]:
        size = found.coupling.masks[number].size
        kernels = eliminate(gathered.readings(network, readers[number]), size, 1e-3, [size // 2]).kernels[size // 2]
        changed = keras.models.clone_model(model)
        changed.set_weights(model.get_weights())
        other = Network(changed)
        for reader, kernel, constant in gathered.new_kernels(network, readers[number], kernels):
            other.layers[reader.node.layer].kernel.assign(kernel)
            add_constant(other, reader.node, following(other, reader.node).norm, constant)
        wanted = moved_by(model, changed, found.samples)
        np.testing.assert_allclose(bench.fitted(gathered, readers[number], kernels), wanted, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "middle",
    [
        lambda: L.Conv2DTranspose(4, 3, padding="same", activation="relu"),
        lambda: L.ConvLSTM1D(3, 3, padding="same", return_sequences=True),
    ],
)
def test_small_masks_that_cannot_be_fitted_keep_a_channel(middle):
    image = keras.Input((6, 6, 3))
    x = middle()(L.Conv2D(4, 3, padding="same", activation="relu")(image))
    model = shake(keras.Model(image, L.Dense(5)(L.GlobalAveragePooling2D()(x))))
    result = keras_qcqp.prune(model, {"macs": 0.8}, data=images(model, count=16), time_limit_s=1)
    assert keras_qcqp.measure(result.model)["macs"] <= 0.8 * keras_qcqp.measure(model)["macs"]


def test_residual_auto_takes_examples():
    model = shake(NETWORKS["residual_stage"]())
    result = keras_qcqp.prune(
        model,
        {"macs": 0.6},
        data=images(model, count=16),
        residual="auto",
        importance=QUICK,
        recovery=(),
        time_limit_s=2,
    )
    assert "residual auto: " in result.report.solution
