"""The numbers of a fine-tuning, checked before anything is loaded or built."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from keras_qcqp.errors import TrainingError, did_you_mean

KEEPS = ("last", "best")
PRECISIONS: Mapping[Any, str | None] = {
    False: None,
    True: "mixed_bfloat16",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """What `finetune` takes by keyword besides models and data.

    Attributes:
        epochs: passes over the training data.
        learning_rate: the highest; it falls to zero along half a cosine.
        batch_size: of arrays; datasets come in batches already.
        warmup_epochs: how long the learning rate rises from zero before it falls; may be a fraction.
        weight_decay: share of each kernel that goes with every step, times the learning rate (decoupled, as Keras does
            it: at momentum 0.9, 1e-3 acts like an L2 penalty of 1e-4 in other frameworks). Biases and norms have none.
        distillation_weight: share of the loss that is imitation of the teacher; the rest is the labels'.
        temperature: softens both outputs before they are compared.
        keep: which weights the result has, those of the "last" epoch or of the "best". The best of many is chosen on
            the validation data, so its accuracy there is optimistic; both are always reported.
        mixed_precision: compute in "bfloat16" (True) or "float16" (for GPUs that are slow at the former; the loss is
            scaled then); variables, and the result, keep the model's own dtypes.
        seed: of the order of samples, of augmentation and of dropout.

    Raises:
        TrainingError: a value that makes no sense; says which.
    """

    epochs: int = 10
    learning_rate: float = 0.01
    batch_size: int = 128
    warmup_epochs: float = 0.0
    weight_decay: float = 1e-3
    distillation_weight: float = 0.5
    temperature: float = 4.0
    keep: str = "last"
    mixed_precision: bool | str = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (kind, fits, wanted) in _RULES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
                raise TrainingError(f"{name} must be {wanted}, got {value!r}.")
        if self.warmup_epochs >= self.epochs:
            raise TrainingError(
                f"warmup_epochs={self.warmup_epochs} leaves nothing of epochs={self.epochs} for training at falling "
                "rates. Warm up for less."
            )
        if self.keep not in KEEPS:
            raise TrainingError(f"keep={self.keep!r} is unknown. {did_you_mean(str(self.keep), KEEPS)}")
        if self.mixed_precision not in PRECISIONS:
            raise TrainingError(
                f"mixed_precision={self.mixed_precision!r} is unknown. Give True or 'bfloat16', 'float16', or False."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FinetuneSettings:
        """Raises TrainingError with the nearest known name where one is unknown."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise TrainingError(f"Unknown setting '{name}' of fine-tuning. {did_you_mean(name, known)}")
        return cls(**given)

    @property
    def policy(self) -> str | None:
        """The Keras dtype policy of mixed precision."""
        return PRECISIONS[self.mixed_precision]


def _positive(value: Any) -> bool:
    return 0 < value < math.inf


def _at_least_zero(value: Any) -> bool:
    return 0 <= value < math.inf


_RULES: Mapping[str, tuple[Any, Callable[[Any], bool], str]] = {
    "epochs": (numbers.Integral, _positive, "a whole number >= 1"),
    "learning_rate": (numbers.Real, _positive, "a finite number above 0"),
    "batch_size": (numbers.Integral, _positive, "a whole number >= 1"),
    "warmup_epochs": (numbers.Real, _at_least_zero, "a finite number >= 0"),
    "weight_decay": (numbers.Real, _at_least_zero, "a finite number >= 0"),
    "distillation_weight": (numbers.Real, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "temperature": (numbers.Real, _positive, "a finite number above 0"),
    "seed": (numbers.Integral, lambda value: 0 <= value < 2**31, "a whole number from 0 to 2**31 - 1"),
}
