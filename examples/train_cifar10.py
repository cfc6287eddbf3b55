"""Trains a small ResNet on CIFAR-10, for the other examples to prune.

Examples:
  python examples/train_cifar10.py --output=resnet20.keras                      # hours on one core
  python examples/train_cifar10.py --depth=8 --epochs=20 --output=resnet8.keras
  python examples/train_cifar10.py --data_dir=cifar10 --checkpoint_dir=run --output=resnet20.keras

The same command goes on where it was killed if it has a --checkpoint_dir. Prints the accuracy on the test images after
the last epoch, and writes that model: the best epoch would have been chosen on the test images.
"""

from __future__ import annotations

import sys

import cifar10
import keras
from absl import app, flags

import keras_qcqp
from keras_qcqp.model_io import save_model

_OUTPUT = flags.DEFINE_string("output", "resnet.keras", "Where to write the model.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with CIFAR-10 packs; empty downloads it.")
_DEPTH = flags.DEFINE_integer("depth", 20, "Layers: 8, 14, 20, 32, 44, 56.")
_EPOCHS = flags.DEFINE_integer("epochs", 160, "Passes over the training images.", 1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.1, "The highest; falls along half a cosine.")
_CHECKPOINT_DIR = flags.DEFINE_string("checkpoint_dir", None, "Where the state is kept after each epoch.")
_TENSORBOARD_DIR = flags.DEFINE_string("tensorboard_dir", None, "Where to write curves.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 0, "Only so many training images; 0 for all.")
_NUM_TEST = flags.DEFINE_integer("num_test", 0, "Only so many test images; 0 for all.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, order and augmentation.")


def main(argv: list[str]) -> int:
    """Trains; returns the exit status."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    try:
        data = cifar10.load(_DATA_DIR.value, _NUM_TRAIN.value, _NUM_TEST.value)
        keras.utils.set_random_seed(_SEED.value)
        result = keras_qcqp.finetune(  # any training is one; the model starts from random weights here
            cifar10.resnet(_DEPTH.value),
            (data.train.x, data.train.y),
            validation_data=(data.test.x, data.test.y),
            augment=cifar10.crop_and_flip,
            epochs=_EPOCHS.value,
            learning_rate=_LEARNING_RATE.value,
            warmup_epochs=min(1, _EPOCHS.value / 10),
            seed=_SEED.value,
            checkpoint_dir=_CHECKPOINT_DIR.value,
            tensorboard_dir=_TENSORBOARD_DIR.value,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
        save_model(result.model, _OUTPUT.value)
    except (keras_qcqp.QcqpError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{result}\nwrote {_OUTPUT.value}")
    return 0


if __name__ == "__main__":
    app.run(main)
