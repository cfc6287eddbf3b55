"""What pruning costs on real trained networks and real images; the tables come from tests/benchmarks/accuracy.py."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_qcqp
from keras_qcqp.importance.reconstruction import Reconstruction


def trained(shared_file, name: str, count: int, normalise: bool):
    """A shared network, training images and test images with labels."""
    from benchmarks.shared_data import CIFAR_MEAN, CIFAR_STD, cifar10, load_tiles

    model = keras.models.load_model(shared_file(f"models/{name}.keras"), compile=False)
    pixels, labels = load_tiles(shared_file("cifar10/train_1.npz"))
    x = pixels[:count].astype(np.float32)
    return (
        model,
        (x / 255 - CIFAR_MEAN) / CIFAR_STD if normalise else x,
        labels[:count].astype(int),
        cifar10(1000, normalise),
    )


def top1(model: keras.Model, tested) -> float:
    return float(np.mean(model.predict(tested.inputs, verbose=0, batch_size=250).argmax(-1) == tested.labels))


def test_resnet8_keeps_its_accuracy_without_training(shared_file):
    model, x, _, tested = trained(shared_file, "mlperf_resnet8_cifar10", 256, normalise=False)
    importance = Reconstruction(num_probed=64, places=16)
    result = keras_qcqp.prune(model, {"macs": 0.7}, data=x, num_samples=256, importance=importance, time_limit_s=1)
    assert keras_qcqp.measure(result.model)["macs"] <= 0.7 * keras_qcqp.measure(model)["macs"]
    dense, sliced, recovered = (top1(m, tested) for m in (model, keras_qcqp.rebuild(model, result.plan), result.model))
    assert sliced < 0.4 and recovered > 0.7 and dense > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("fraction", "least"), [(0.7, 0.895), (0.5, 0.855)])
def test_resnet20_keeps_its_accuracy_without_training(shared_file, fraction, least):
    model, x, y, tested = trained(shared_file, "resnet20_cifar10", 2048, normalise=True)
    result = keras_qcqp.prune(model, {"macs": fraction}, data=(x, y), num_samples=2048)
    assert top1(result.model, tested) >= least


@pytest.mark.slow
def test_training_goes_on_from_there(shared_file):
    """One epoch of a tenth of the images already gains something."""
    model, x, y, tested = trained(shared_file, "resnet20_cifar10", 5000, normalise=True)
    result = keras_qcqp.prune(model, {"macs": 0.4}, data=(x, y))
    tuned = keras_qcqp.finetune(result, (x, y), teacher=model, epochs=1, learning_rate=0.01)
    assert top1(tuned.model, tested) > top1(result.model, tested) - 0.005
