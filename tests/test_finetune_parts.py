"""The parts of fine-tuning: data, losses, imitation, and steps of pruning with training in between."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from finetune_run import network, samples

import keras_qcqp
from keras_qcqp.errors import TrainingError
from keras_qcqp.finetuning import iterative
from keras_qcqp.finetuning.data import Arrays, arguments_of_fit, num_steps, prepared
from keras_qcqp.finetuning.losses import compile_arguments, imitation
from keras_qcqp.losses import of_classes, output_kinds

L = keras.layers


def test_every_epoch_has_all_samples_in_an_order_of_its_own():
    data = Arrays(({"a": np.arange(10)}, np.arange(10) * 2), 4, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        data.start(epoch)
        batches = [data[k] for k in range(len(data))]
        assert [len(y) for _, y in batches] == [4, 4, 2]
        assert all(np.array_equal(2 * x["a"], y) for x, y in batches)
        orders.append(np.concatenate([y for _, y in batches]).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(0, 20, 2))


def test_a_layer_that_augments_is_copied_and_seeded_for_each_batch():
    layer = L.RandomFlip("horizontal")
    x, y = samples()
    before = [np.array(v) for v in layer.variables]
    data = prepared((x, y), 32, 0, layer)
    first = data[1][0]
    np.testing.assert_array_equal(first, data[1][0])
    data.start(1)
    source = Arrays((x, y), 32, 0)
    source.start(1)
    plain, changed = source[1][0], data[1][0]
    mirrored = (changed != plain).any(axis=(1, 2, 3))
    assert 0 < mirrored.sum() < len(plain)
    np.testing.assert_array_equal(changed[mirrored], plain[mirrored][:, :, ::-1])
    for old, now in zip(before, layer.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(now))


def test_a_users_dataset_is_told_of_the_epochs_before():
    class Counting(keras.utils.PyDataset):
        ended = 0

        def __len__(self):
            return 2

        def on_epoch_end(self):
            self.ended += 1

    for augment in (None, lambda x: x):
        data = Counting()
        assert arguments_of_fit(prepared(data, 8, 0, augment), 3, 5)["shuffle"] is False
        assert data.ended == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(3), "train_data must be arrays (x, y) or (x, y, sample_weight), a tf.data.Dataset or a keras.util"),
        ((np.zeros(3), np.zeros(2)), "All arrays of train_data must have as many samples, at least one; got 2 and 3."),
        ((np.zeros(0), np.zeros(0)), "All arrays of train_data must have as many samples, at least one; got 0."),
    ],
)
def test_data_that_does_not_fit_is_refused(data, message):
    with pytest.raises(TrainingError) as caught:
        prepared(data, 8, 0, None)
    assert str(caught.value).startswith(message)


def test_a_dataset_must_know_its_length():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((np.zeros((6, 2)), np.zeros(6))).batch(2)
    assert num_steps(prepared(dataset, 8, 0, None)) == 3
    for unknown, what in ((dataset.repeat(), "has no end"), (dataset.filter(lambda x, y: True), "does not know its ")):
        with pytest.raises(TrainingError, match=f"^The tf.data.Dataset of train_data {what}"):
            num_steps(prepared(unknown, 8, 0, None))


def ending_in(make) -> keras.Model:
    image = keras.Input((4,), name="image")
    return keras.Model(image, make(L.Dense(3, name="first")(image)), name="ends")


ENDS = [
    (lambda x: x, "logits"),
    (lambda x: L.Softmax()(x), "probabilities"),
    (lambda x: L.Activation("softmax")(x), "probabilities"),
    (lambda x: L.Dense(3, activation="softmax")(x), "probabilities"),
    (lambda x: keras.ops.softmax(x), "probabilities"),
    (lambda x: keras.Model(i := keras.Input((3,)), L.Dense(2, activation="softmax")(i))(x), "probabilities"),
    (lambda x: L.Activation("linear", dtype="float32")(x), "logits"),  # tells nothing, what comes before does
    (lambda x: L.Activation("linear")(L.ReLU()(x)), None),
    (lambda x: L.ReLU()(x), None),
    (lambda x: L.Dense(3, activation="sigmoid")(x), None),
]


@pytest.mark.parametrize(("make", "kind"), ENDS)
def test_the_last_operation_tells_what_the_outputs_are(make, kind):
    model = ending_in(make)
    assert output_kinds(model) == (kind,)
    if kind is not None:
        assert compile_arguments(model, None)["loss"].from_logits == (kind == "logits")


def test_labels_are_class_numbers_or_rows():
    model = ending_in(lambda x: L.Dense(3)(x))
    x, y = np.random.default_rng(0).normal(size=(12, 4)).astype("float32"), np.arange(12) % 3
    losses = [
        keras_qcqp.finetune(model, (x, labels), epochs=2).history["loss"] for labels in (y, y[:, None], np.eye(3)[y])
    ]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


def test_a_loss_that_cannot_be_guessed_is_asked_for():
    for make, part in (
        (L.ReLU(name="last"), "'last' (ReLU, 3 wide)"),
        (L.Dense(1, name="one"), "'one' (Dense, 1 wide)"),
    ):
        with pytest.raises(TrainingError) as caught:
            keras_qcqp.finetune(ending_in(make), (np.zeros((2, 4)), np.zeros(2)))
        assert str(caught.value).startswith(
            f"Model 'ends' is not compiled, and its last operation {part} does not tell"
        )
        assert "Give loss=, for example keras.losses.SparseCategoricalCrossentropy" in str(caught.value)
    assert compile_arguments(ending_in(L.ReLU()), "mse") == {"loss": "mse", "metrics": ["accuracy"]}


def test_compile_settings_are_used():
    model = ending_in(L.ReLU())
    model.compile("sgd", "mae", metrics=["mse"])
    assert compile_arguments(model, None)["loss"] == "mae"
    assert compile_arguments(model, "mse") | {"loss": "mse", "metrics": ["mse"]} == compile_arguments(model, "mse")


def test_imitation_is_the_same_for_logits_and_probabilities_and_zero_for_equals():
    random = np.random.default_rng(0)
    t, s = random.normal(size=(2, 5, 4)).astype("float32")
    probability = {"logits": lambda z: z, "probabilities": lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)}
    soft_t, soft_s = (probability["probabilities"](z / 2) for z in (t, s))
    wanted = 4 * np.mean(np.sum(soft_t * np.log(soft_t / soft_s), axis=-1))
    for a in probability:
        for b in probability:
            found = imitation(probability[a](t), probability[b](s), ((a, b),), True, 2.0)
            assert float(found) == pytest.approx(wanted, rel=1e-4)
    assert float(imitation(t, t, (("logits", "logits"),), True, 2.0)) == pytest.approx(0, abs=1e-6)
    squared = np.mean((t - s) ** 2)
    assert float(imitation(t, s, (("logits", "logits"),), False, 2.0)) == pytest.approx(squared, rel=1e-5)
    assert float(imitation(t, s, ((None, None),), True, 2.0)) == pytest.approx(squared, rel=1e-5)


def test_losses_of_classes():
    assert of_classes("sparse_categorical_crossentropy") and of_classes(keras.losses.CategoricalCrossentropy())
    assert not of_classes("mse") and not of_classes("binary_crossentropy")
    assert not of_classes({"a": "sparse_categorical_crossentropy", "b": "mse"})


def test_limits_tighten_by_the_same_factor():
    model = network()
    used = keras_qcqp.measure(model)
    limit = used["params"] - 20
    budget = {"macs": 0.5, "params": limit, "layers": {"conv": {"macs": 0.25}}}
    gauge = iterative._Gauge.of(budget, {})
    schedule = list(gauge.schedule(model, 2))
    conv = gauge.usage(model)["macs[conv]"]
    assert schedule == [
        {
            "macs": int(used["macs"] * 0.5**0.5),
            "params": int((used["params"] * limit) ** 0.5),
            "macs[conv]": int(conv * 0.5),
        },
        {"macs": used["macs"] // 2, "params": limit, "macs[conv]": conv // 4},
    ]
    asked = gauge.at({"macs": used["macs"], "params": limit, "macs[conv]": 7}, model)
    assert str(asked) == f"macs=1,params={limit},conv:macs=7"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0."),
        ({"teacher": None}, "The teacher is the given model"),
    ],
)
def test_steps_that_make_no_sense_are_refused(options, message):
    with pytest.raises(TrainingError, match=message):
        keras_qcqp.prune_and_finetune(network(), {"macs": 0.5}, samples(), **options)


def test_steps_reach_the_budget_and_are_taken_up_again(tmp_path, monkeypatch):
    model = network()
    before = model.get_weights()
    given = {
        "steps": 2,
        "epochs": 1,
        "prune_options": {"time_limit_s": 2},
        "validation_data": samples(),
        "checkpoint_dir": tmp_path,
    }
    first = keras_qcqp.prune_and_finetune(model, {"macs": 0.5}, samples(), **given)
    used = [keras_qcqp.measure(model)["macs"], *(s.usage["macs"] for s in first.steps)]
    assert used == sorted(used, reverse=True) and used[2] <= used[0] // 2 < used[1] <= used[0] * 0.5**0.5
    assert keras_qcqp.measure(first.model)["macs"] == used[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_1", "step_2"]
    assert str(first).splitlines()[1].startswith(f"step 2: macs {used[2]:,} of {used[0] // 2:,}; finished 1 epochs: ")
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)

    monkeypatch.setattr(iterative, "prune", None)  # not called again
    told: list[str] = []
    again = keras_qcqp.prune_and_finetune(model, {"macs": 0.5}, samples(), **given, progress=told.append)
    assert told[1:3] == ["pruned before", "resumed after epoch 1 of 1"]
    for a, b in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(TrainingError, match=r"step.json' belongs to another run: it was asked for \{'macs': "):
        keras_qcqp.prune_and_finetune(model, {"macs": 0.6}, samples(), **given)
    other = {**given, "prune_options": {"time_limit_s": 2, "importance": "l1"}}
    with pytest.raises(TrainingError, match=r"step.json' belongs to another run"):
        keras_qcqp.prune_and_finetune(model, {"macs": 0.5}, samples(), **other)
