"""Fine-tuning of a pruned model, by the labels and by imitation of the original."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras

from keras_qcqp.finetuning.running import FinetuneResult as FinetuneResult
from keras_qcqp.finetuning.running import Order, Tell, run
from keras_qcqp.finetuning.settings import FinetuneSettings
from keras_qcqp.pruning import PruneResult


def finetune(
    model: PruneResult | keras.Model,
    train_data: Any,
    *,
    teacher: keras.Model | None = None,
    validation_data: Any = None,
    loss: Any = None,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    augment: Callable[..., Any] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    tensorboard_dir: str | os.PathLike[str] | None = None,
    verbose: int = 0,
    progress: Tell | None = None,
    **settings: Any,
) -> FinetuneResult:
    """Trains a copy of a pruned model; neither the model nor the teacher is changed.

    By default with Nesterov SGD along half a cosine. Layers that are not trainable, frozen batch norms among them, stay
    as they are. With the same seed and data on the same machine a run that was killed and resumed gives the same
    weights as one that was not: order and augmentation depend on seed and epoch alone. (A `tf.data.Dataset` must
    shuffle with a seed of its own; on GPUs some operations are not deterministic.)

    Args:
        model: what `prune` returned, or any Functional or built Sequential model.
        train_data: arrays `(x, y)` or `(x, y, sample_weight)`, shuffled here; a `tf.data.Dataset` or
            `keras.utils.PyDataset` that gives batches of these.
        teacher: a model whose outputs are imitated, usually the original; a `PruneResult` does not hold it.
        validation_data: what `keras.Model.fit` takes; measured after each epoch.
        loss: what `compile` takes. Default: what the model was compiled with, else categorical cross-entropy of class
            numbers or of rows as wide as the output, from logits or probabilities by the last layer's activation.
        optimizer: instead of the default; a copy is used, and `learning_rate`, `warmup_epochs` and `weight_decay` do
            not count.
        augment: `f(x)` or `f(x, numpy_generator)` on each batch of inputs, or a Keras layer. Only the generator's and
            a layer's randomness is the same in a resumed run.
        checkpoint_dir: made if missing. After each epoch everything the next one depends on is written there at once;
            the same call then goes on after the last finished epoch, however the process ended. A finished run is
            read, not repeated.
        resume: False begins anew and overwrites the checkpoint.
        tensorboard_dir: where curves are written for TensorBoard, whose package must be installed.
        verbose: Keras' own progress bar (1) or lines (2) on standard output.
        progress: called with a line of text after each epoch.
        settings: fields of `keras_qcqp.finetuning.settings.FinetuneSettings`: epochs, learning_rate, batch_size,
            warmup_epochs, weight_decay, distillation_weight, temperature, keep, mixed_precision, seed.

    Raises:
        TrainingError: a setting, the data, the loss or the checkpoint does not fit; the loss became NaN.
        ModelError: the model is no Functional or Sequential model.
        FileError: the checkpoint cannot be read or written.
        KeyboardInterrupt: Ctrl-C before the first epoch was finished; later ones return what there is.
    """
    return run(
        Order(
            model.model if isinstance(model, PruneResult) else model,
            train_data,
            FinetuneSettings.of(settings),
            teacher=teacher,
            validation_data=validation_data,
            loss=loss,
            optimizer=optimizer,
            augment=augment,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            tensorboard_dir=tensorboard_dir,
            verbose=verbose,
            tell=progress or (lambda line: None),
        )
    )
