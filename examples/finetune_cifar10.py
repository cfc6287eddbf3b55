"""Gets the accuracy of a pruned CIFAR-10 network back: augmentation, half a cosine, imitation of the original.

Examples:
  python examples/finetune_cifar10.py --model=pruned.keras --teacher=resnet20.keras --output=tuned.keras
  python examples/finetune_cifar10.py --model=resnet20.keras --budget=macs=0.5 --steps=3 --output=tuned.keras
  python examples/finetune_cifar10.py --model=pruned.keras --epochs=60 --checkpoint_dir=run --output=tuned.keras

With --budget the model is the original itself, pruned in steps with training after each. The same command goes on where
it was killed if it has a --checkpoint_dir. Accuracies are on the test images, after the last epoch and after the best;
the model written is the last.
"""

from __future__ import annotations

import sys
from typing import Any

import cifar10
import keras
from absl import app, flags

import keras_qcqp
from keras_qcqp.model_io import load_model, save_model

_MODEL = flags.DEFINE_string("model", None, "The .keras file to train.", required=True)
_TEACHER = flags.DEFINE_string("teacher", None, "The original .keras file, whose outputs are imitated.")
_OUTPUT = flags.DEFINE_string("output", "tuned.keras", "Where to write the trained model.")
_BUDGET = flags.DEFINE_string("budget", None, "Prune to this in steps, instead of training a pruned model.")
_STEPS = flags.DEFINE_integer("steps", 3, "How many steps; with --budget.", 1)
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the training images, in each step.", 1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.05, "The highest; falls along half a cosine.")
_OPTIMIZER = flags.DEFINE_enum("optimizer", "sgd", ["sgd", "adam"], "Adam suits networks of raw pixels better.")
_DISTILLATION_WEIGHT = flags.DEFINE_float("distillation_weight", 0.5, "Share of imitation in the loss.", 0.0, 1.0)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images of a step.", 1)
_WARMUP_EPOCHS = flags.DEFINE_float("warmup_epochs", 0.0, "How long the learning rate rises first.")
_WEIGHT_DECAY = flags.DEFINE_float("weight_decay", 1e-3, "Share of each kernel that goes, times the learning rate.")
_MIXED_PRECISION = flags.DEFINE_bool("mixed_precision", False, "Compute in bfloat16; for GPUs.")
_CHECKPOINT_DIR = flags.DEFINE_string("checkpoint_dir", None, "Where the state is kept after each epoch.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with CIFAR-10 packs; empty downloads it.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 0, "Only so many training images; 0 for all.")
_NUM_TEST = flags.DEFINE_integer("num_test", 0, "Only so many test images; 0 for all.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of order and augmentation.")


def main(argv: list[str]) -> int:
    """Trains and measures; returns the exit status."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    if _BUDGET.value and _TEACHER.value:
        raise app.UsageError("with --budget the teacher is --model itself")
    try:
        model = load_model(_MODEL.value)
        teacher = load_model(_TEACHER.value) if _TEACHER.value else None
        result = train(model, teacher, cifar10.load(_DATA_DIR.value, _NUM_TRAIN.value, _NUM_TEST.value))
        save_model(result.model, _OUTPUT.value)
    except (keras_qcqp.QcqpError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{result}\nwrote {_OUTPUT.value}")
    return 0


def train(model: keras.Model, teacher: keras.Model | None, data: cifar10.Data) -> Any:
    """One fine-tuning, or steps of pruning and fine-tuning."""
    options: dict[str, Any] = {
        "validation_data": (data.test.x, data.test.y),
        "augment": cifar10.crop_and_flip,
        "epochs": _EPOCHS.value,
        "learning_rate": _LEARNING_RATE.value,
        "distillation_weight": _DISTILLATION_WEIGHT.value,
        "batch_size": _BATCH_SIZE.value,
        "warmup_epochs": _WARMUP_EPOCHS.value,
        "weight_decay": _WEIGHT_DECAY.value,
        "mixed_precision": _MIXED_PRECISION.value,
        "seed": _SEED.value,
        "optimizer": _adam(len(data.train.y)) if _OPTIMIZER.value == "adam" else None,
        "checkpoint_dir": _CHECKPOINT_DIR.value,
        "progress": lambda line: print(line, file=sys.stderr, flush=True),
    }
    train = (data.train.x, data.train.y)
    if _BUDGET.value:
        return keras_qcqp.prune_and_finetune(model, _BUDGET.value, train, steps=_STEPS.value, **options)
    return keras_qcqp.finetune(model, train, teacher=teacher, **options)


def _adam(num_images: int) -> keras.optimizers.Optimizer:
    """Along the same half cosine; raw pixels make gradients of the first layer that no one rate of SGD suits."""
    steps = -(-num_images // _BATCH_SIZE.value) * _EPOCHS.value
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_LEARNING_RATE.value, steps))


if __name__ == "__main__":
    app.run(main)
