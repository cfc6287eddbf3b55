"""What an engine is given: one conversion, decided but not done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite_tools.recipe import Recipe
from tflite_tools.representative import InputSpec

Dataset = Callable[[], Iterator[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        model: a Keras model, or the bytes of a float `.tflite` file.
        specs: its inputs.
        recipe: how numbers are stored.
        dataset: starts a pass over the samples, addressed by the *signature's* input names; None if not needed.
        select_ops: whether TensorFlow's own operators may be used where there is no builtin one.
        trained: the model itself holds the ranges of its activations, from quantization-aware training.
    """

    model: Any
    specs: tuple[InputSpec, ...]
    recipe: Recipe
    dataset: Dataset | None = None
    select_ops: bool = False
    trained: bool = False
