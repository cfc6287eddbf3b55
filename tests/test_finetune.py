"""Fine-tuning: nothing of the user's changes, and a run that was killed ends as one that was not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import networks
import numpy as np
import pytest
from finetune_run import network, options, samples

import keras_qcqp
from keras_qcqp.errors import FileError, ModelError, TrainingError
from keras_qcqp.finetuning import checkpoint, recorder, running
from keras_qcqp.finetuning.settings import FinetuneSettings

L = keras.layers
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def whole():
    """A run that nothing interrupted."""
    return keras_qcqp.finetune(network(), samples(), **options())


def assert_same_weights(a, b) -> None:
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p, q)


def stopping_after(epochs: int, failure: BaseException):
    """A `progress` that fails once so many epochs are told."""

    def tell(line: str) -> None:
        if line.startswith(f"epoch {epochs}/"):
            raise failure

    return tell


def test_it_learns_and_tells_the_last_and_the_best_epoch(whole):
    assert sorted(whole.history) == ["accuracy", "learning_rate", "loss", "val_accuracy", "val_loss"]
    accuracies = whole.history["val_accuracy"]
    assert (whole.monitor, whole.num_epochs, whole.interrupted) == ("val_accuracy", 4, False)
    assert (whole.last, whole.best) == (accuracies[-1], max(accuracies))
    assert whole.best_epoch == accuracies.index(max(accuracies)) + 1
    assert whole.history["loss"][-1] < whole.history["loss"][0]
    x, y = samples()
    measured = np.mean(whole.model.predict(x, verbose=0).argmax(axis=1) == y)
    assert measured == pytest.approx(whole.last)
    assert str(whole) == (
        f"finished 4 epochs: val_accuracy {whole.last:.4f} after the last, {whole.best:.4f} after the best "
        f"({whole.best_epoch})"
    )


def test_the_learning_rate_is_half_a_cosine(whole):
    expected = [0.05 * (1 + np.cos(np.pi * k / 4)) / 2 for k in (1, 2, 3, 4)]
    assert whole.history["learning_rate"] == pytest.approx(expected, abs=1e-7)


def test_nothing_of_the_users_changes_and_frozen_layers_stay():
    model, given = network(), options()
    model.get_layer("bn").trainable = False
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher = given["teacher"]
    before = [m.get_weights() for m in (model, teacher)]
    result = keras_qcqp.finetune(model, samples(), **{**given, "epochs": 1})
    assert_same_weights([w for m in (model, teacher) for w in m.get_weights()], [w for b in before for w in b])
    assert teacher.trainable and len(teacher.trainable_variables) == 5
    assert model.optimizer.iterations == 0 and result.model.compiled
    assert_same_weights(result.model.get_layer("bn").get_weights(), model.get_layer("bn").get_weights())
    assert not result.model.get_layer("bn").trainable
    for old, new in zip(model.trainable_variables, result.model.trainable_variables, strict=True):
        assert old.path == new.path and not np.array_equal(np.array(old), np.array(new))


@pytest.mark.parametrize("kind", ["arrays", "tf.data", pytest.param("PyDataset", marks=pytest.mark.slow)])
def test_a_run_that_failed_goes_on_as_if_it_had_not(tmp_path, whole, kind):
    """Weights and history are equal to the last bit; `whole` is the run of arrays."""
    given = {**options(), "checkpoint_dir": tmp_path / "new" / "run"}
    if kind != "arrays":
        given = {**given, "epochs": 3, "teacher": None, "validation_data": None}
        whole = keras_qcqp.finetune(network(), dataset(kind), **{**given, "checkpoint_dir": None})
    with pytest.raises(ZeroDivisionError):
        progress = stopping_after(2, ZeroDivisionError())
        keras_qcqp.finetune(network(), dataset(kind), **given, progress=progress)
    told: list[str] = []
    result = keras_qcqp.finetune(network(), dataset(kind), **given, progress=told.append)
    assert told[0] == f"resumed after epoch 2 of {given['epochs']}" and len(told) == given["epochs"] - 1
    assert result.history == whole.history
    assert_same_weights(result.model.get_weights(), whole.model.get_weights())


def dataset(kind: str):
    x, y = samples()
    if kind == "tf.data":
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=1).batch(40)

    class Shuffled(keras.utils.PyDataset):
        epoch = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            chosen = np.random.default_rng(self.epoch).permutation(len(x))[index::3]
            return x[chosen], y[chosen]

        def on_epoch_end(self):
            self.epoch += 1

    return Shuffled() if kind == "PyDataset" else (x, y)


def killed_in_the_third_epoch(folder: Path, **environment: str) -> list[str]:
    """What the process told before."""
    command = [sys.executable, str(ROOT / "tests/finetune_run.py"), str(folder), "0.1"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith("epoch 2/4"):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return told


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_run_that_was_killed_loses_no_epoch(tmp_path, whole):
    killed_in_the_third_epoch(tmp_path)
    (tmp_path / "checkpoint/.finetuning-abc.npz").write_text("half a file, of a process killed while it wrote")
    told: list[str] = []
    given = {**options(), "checkpoint_dir": tmp_path / "checkpoint", "progress": told.append}
    result = keras_qcqp.finetune(network(), samples(), **given)
    assert told[0] == "resumed after epoch 2 of 4" and len(told) == 3
    assert result.history == whole.history
    assert_same_weights(result.model.get_weights(), whole.model.get_weights())
    assert [p.name for p in (tmp_path / "checkpoint").iterdir()] == ["finetuning.npz"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_run_of_jax_that_was_killed_loses_no_epoch(tmp_path, run_python):
    pytest.importorskip("jax")
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    killed_in_the_third_epoch(tmp_path / "killed", KERAS_BACKEND="jax")
    for name in ("killed", "whole"):
        process = run_python(ROOT / "tests/finetune_run.py", tmp_path / name, KERAS_BACKEND="jax")
        assert process.returncode == 0, process.stderr
    a, b = (np.load(tmp_path / name / "weights.npz") for name in ("killed", "whole"))
    assert_same_weights([a[k] for k in a.files], [b[k] for k in b.files])


def test_a_finished_run_is_read_and_another_one_refused(tmp_path):
    given = {**options(), "epochs": 1, "teacher": None, "checkpoint_dir": tmp_path}
    first = keras_qcqp.finetune(network(), samples(), **given)
    told: list[str] = []
    again = keras_qcqp.finetune(network(), samples(), **given, progress=told.append)
    assert told == ["resumed after epoch 1 of 1"]
    assert_same_weights(first.model.get_weights(), again.model.get_weights())
    with pytest.raises(TrainingError) as caught:
        keras_qcqp.finetune(network(), samples(), **{**given, "seed": 4, "epochs": 2})
    assert str(caught.value) == (
        f"The checkpoint '{tmp_path / 'finetuning.npz'}' belongs to another run: epochs was 1, is 2; seed was 3, is 4; "
        f"optimizer was {checkpoint._short(_optimizer(tmp_path))}, is {checkpoint._short(_optimizer(tmp_path))}. "
        "Give another checkpoint_dir, or resume=False to begin anew."
    )
    with pytest.raises(TrainingError, match="weights of the model was "):
        keras_qcqp.finetune(network(7), samples(), **given)
    x, y = samples()
    with pytest.raises(TrainingError, match="training data was "):
        keras_qcqp.finetune(network(), (x + 1, y), **given)
    (tmp_path / "finetuning.npz").write_bytes((tmp_path / "finetuning.npz").read_bytes()[:2000])
    with pytest.raises(FileError, match="is no checkpoint of a fine-tuning, or damaged"):
        keras_qcqp.finetune(network(), samples(), **given)
    assert keras_qcqp.finetune(network(), samples(), **given, resume=False).num_epochs == 1


def _optimizer(folder: Path) -> dict:
    import json

    return json.loads(str(np.load(folder / "finetuning.npz")["told"]))["run"]["optimizer"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    run, values = {"a": 1}, (np.arange(3.0),)
    state = checkpoint.State({"loss": [1.0]}, values, values, 1, values)
    checkpoint.save(tmp_path / "x.npz", state, run)

    def half(stream, **arrays):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "x.npz", state, run)
    found = checkpoint.load(tmp_path / "x.npz", run)
    assert found is not None and found.num_epochs == 1
    assert_same_weights(found.best, values)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("real", [True, False], ids=["signal", "exception"])
def test_ctrl_c_returns_the_best_so_far(whole, real):
    """A real one is heard between batches; one that is raised anyhow, say by a notebook, does as well."""

    def press(line: str) -> None:
        if line.startswith("epoch 3/"):
            if not real:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    best = 1 + int(np.argmax(whole.history["val_accuracy"][:3]))
    result = keras_qcqp.finetune(network(), samples(), **options(), progress=press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (result.interrupted, result.num_epochs, result.best_epoch) == (True, 3, best)
    x, y = samples()
    measured = np.mean(result.model.predict(x, verbose=0).argmax(axis=1) == y)
    assert measured == pytest.approx(result.history["val_accuracy"][best - 1])
    assert str(result).startswith("interrupted after 3 epochs: val_accuracy ")


def test_ctrl_c_in_the_first_epoch_is_ctrl_c(monkeypatch):
    """The epoch is cut short before its first batch, and does not count."""
    start = recorder.Recorder.on_epoch_begin

    def press(self, epoch, logs=None):
        start(self, epoch, logs)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(recorder.Recorder, "on_epoch_begin", press)
    with pytest.raises(KeyboardInterrupt):
        keras_qcqp.finetune(network(), samples(), epochs=1, batch_size=16)


@pytest.mark.parametrize(("asked", "policy"), [(True, "mixed_bfloat16"), ("float16", "mixed_float16")])
def test_mixed_precision_is_for_the_training_copy_only(asked, policy):
    model = network()
    copy = running._training_copy(model, FinetuneSettings(mixed_precision=asked))
    assert [copy.get_layer(n).dtype_policy.name for n in ("conv", "bn", "logits")] == [policy, policy, "float32"]
    given = {**options(), "epochs": 1, "mixed_precision": asked}
    if asked == "float16":
        result = keras_qcqp.finetune(model, samples(), **given)
        assert {layer.dtype_policy.name for layer in result.model.layers} == {"float32"}
        assert {v.dtype for v in result.model.weights} == {"float32"}
        assert np.isfinite(result.history["loss"]).all()


def test_nested_and_shared_layers_are_trained_once():
    model = networks.shake(networks.shared_layer())
    model.compile("sgd", "mse", metrics=["mae"])
    (x,) = networks.images(model, 16)
    y = [np.ones((16, *out.shape[1:]), "float32") for out in model.outputs]
    before = model.get_weights()
    result = keras_qcqp.finetune(model, (x, y[0] if len(y) == 1 else y), epochs=1, batch_size=8, learning_rate=1e-4)
    assert_same_weights(model.get_weights(), before)
    assert [w.shape for w in result.model.weights] == [w.shape for w in model.weights]
    assert (result.monitor, result.last, result.best_epoch) == (None, None, 1)
    assert str(result).endswith("; no validation data")


def test_what_prune_returns_can_be_given():
    pruned = keras_qcqp.prune(network(), {"macs": 0.6}, time_limit_s=2)
    result = keras_qcqp.finetune(pruned, samples(), epochs=1, optimizer="adam")
    assert keras_qcqp.measure(result.model) == keras_qcqp.measure(pruned.model)
    assert result.history["learning_rate"] == (pytest.approx(1e-3),)


def test_a_loss_that_explodes_is_an_error_and_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"^The loss became (nan|inf) in epoch 1. Lower learning_rate, or let it"):
        keras_qcqp.finetune(
            network(), samples(), epochs=1, batch_size=16, optimizer=keras.optimizers.SGD(1e30), checkpoint_dir=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


WRONG = [
    ({"epoch": 3}, "Unknown setting 'epoch' of fine-tuning. Did you mean 'epochs'? Known: batch_size, distillation_w"),
    ({"epochs": 0}, "epochs must be a whole number >= 1, got 0."),
    ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0, got nan."),
    ({"batch_size": 2.5}, "batch_size must be a whole number >= 1, got 2.5."),
    ({"distillation_weight": 1.5}, "distillation_weight must be a number from 0 to 1, got 1.5."),
    ({"warmup_epochs": 10}, "warmup_epochs=10 leaves nothing of epochs=10 for training at falling rates. Warm up for"),
    ({"keep": "first"}, "keep='first' is unknown. Known: best, last."),
    ({"mixed_precision": "int8"}, "mixed_precision='int8' is unknown. Give True or 'bfloat16', 'float16', or False."),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=lambda v: next(iter(v)) if isinstance(v, dict) else None)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(TrainingError) as caught:
        keras_qcqp.finetune(None, None, **given)
    assert str(caught.value).startswith(message)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(ModelError, match="A Keras 3 model was expected, got "):
        keras_qcqp.finetune("x.keras", samples())
    with pytest.raises(TrainingError, match=re.escape("The inputs of teacher 'chain' have shapes [(")):
        keras_qcqp.finetune(network(), samples(), teacher=networks.chain())


def test_tensorboard_is_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"^tensorboard_dir needs the package tensorboard. Install it: pip "):
        keras_qcqp.finetune(network(), samples(), tensorboard_dir=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_curves_are_written_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    keras_qcqp.finetune(network(), samples(), epochs=1, tensorboard_dir=tmp_path)
    assert list(tmp_path.glob("train/events*"))
