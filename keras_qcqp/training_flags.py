"""Flags and data of every command line that trains."""

from __future__ import annotations

from typing import Any

from absl import flags

from keras_qcqp.data_files import load_examples

Holders = tuple[flags.FlagHolder[Any], ...]


def define_training_flags(values: flags.FlagValues) -> Holders:
    """One flag for each field of `FinetuneSettings`."""
    return (
        flags.DEFINE_integer("epochs", 10, "Passes over the training data, in each step.", flag_values=values),
        flags.DEFINE_float(
            "learning_rate", 0.01, "The highest; it falls to zero along half a cosine.", flag_values=values
        ),
        flags.DEFINE_integer("batch_size", 128, "Samples of a step.", flag_values=values),
        flags.DEFINE_float(
            "warmup_epochs", 0.0, "How long the learning rate rises before it falls.", flag_values=values
        ),
        flags.DEFINE_float(
            "weight_decay",
            1e-3,
            "Share of each kernel that goes, times the learning rate.",
            flag_values=values,
        ),
        flags.DEFINE_float(
            "distillation_weight", 0.5, "Share of the loss that is imitation of --teacher.", flag_values=values
        ),
        flags.DEFINE_float("temperature", 4.0, "Softens both outputs before they are compared.", flag_values=values),
        flags.DEFINE_string("keep", "last", "Weights of the last epoch, or of the best one.", flag_values=values),
        flags.DEFINE_string(
            "mixed_precision", "", "Compute in bfloat16 or float16; the file keeps its dtypes.", flag_values=values
        ),
        flags.DEFINE_integer("seed", 0, "Seed of the order of samples and of dropout.", flag_values=values),
    )


def training_settings(holders: Holders) -> dict[str, Any]:
    """Checked before the data is read; importing the settings does not import Keras.

    Raises:
        TrainingError: a value that makes no sense.
    """
    from keras_qcqp.finetuning.settings import FinetuneSettings

    given = {flag.name: flag.value for flag in holders}
    given["mixed_precision"] = given["mixed_precision"] or False
    FinetuneSettings.of(given)
    return given


def training_arrays(path: str) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Training and validation arrays of an .npz file; nothing in the file is executed.

    Raises:
        DataError, FileError: as `load_examples`.
    """
    arrays = load_examples(path, ("x_train", "y_train"))
    validation = (arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None
    return (arrays["x_train"], arrays["y_train"]), validation
