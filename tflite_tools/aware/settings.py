"""How quantization-aware training goes."""

from __future__ import annotations

from dataclasses import dataclass

from tflite_tools.errors import QatError


@dataclass(frozen=True)
class QatSettings:
    """Numbers of a training.

    Attributes:
        epochs: passes over the data; 0 only chooses scales.
        learning_rate: the highest; it falls to zero along half a cosine. SGD with momentum 0.9.
        batch_size: samples of a step.
        distillation_weight: share of the loss that is imitation of the teacher; without labels all of it.
        temperature: softens both outputs before they are compared.
        shift_px: images are moved by up to so many pixels, zeros coming in.
        mirror: half of the images are mirrored.
        num_validation: samples at the end of the data that are not trained on, but measured after each epoch.
        seed: of order and augmentation.

    Raises:
        QatError: a value that makes no sense.
    """

    epochs: int = 3
    learning_rate: float = 0.001
    batch_size: int = 64
    distillation_weight: float = 0.7
    temperature: float = 4.0
    shift_px: int = 0
    mirror: bool = False
    num_validation: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("shift_px", 0), ("num_validation", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise QatError(f"{name} is {value!r}; a whole number of at least {least} is expected.")
        if not 0 <= self.distillation_weight <= 1:
            raise QatError(f"distillation_weight is {self.distillation_weight!r}; 0 to 1 is expected.")
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise QatError("learning_rate and temperature must be positive.")
