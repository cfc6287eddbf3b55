"""Random inputs that every kind of model accepts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tflite_tools.flatbuffer import TensorFacts


def random_input(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype, quantized: bool) -> np.ndarray:
    """Normal floats, integers over the whole range of a quantized tensor, or 0 and 1."""
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind in "iu" and quantized:
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    # Plain integers are mostly indices: 0 and 1 stay inside every table that has two rows.
    return random.integers(0, 2, shape).astype(dtype)


def random_inputs(tensors: Sequence[TensorFacts], seed: int) -> list[np.ndarray]:
    """One array for each tensor, in order."""
    random = np.random.default_rng(seed)
    return [random_input(random, t.shape, np.dtype(t.dtype), t.scale is not None) for t in tensors]
