"""ai-edge-quantizer: float `.tflite` -> quantized `.tflite`, without TensorFlow. The only module that imports it.

It calibrates once and quantizes in milliseconds, each operator by a rule of its own; so it is also what mixed
precision is made with. It leaves all operator versions at 1, which runtimes of today and Vela accept.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from tflite_tools.engines import Dataset
from tflite_tools.errors import ConversionError, first_line
from tflite_tools.quiet import silenced
from tflite_tools.recipe import Recipe

PRECISIONS = ("float32", "int16")
"""What an operator may keep where the others are int8."""


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A float file with the ranges of its tensors; quantize it as often as you like.

    Attributes:
        float_model: the content of a float `.tflite` file.
        dataset: one pass over samples by signature input name; None for recipes without activations to scale.
    """

    float_model: bytes
    dataset: Dataset | None = None

    @cached_property
    def _ranges(self) -> Any:
        module = _library()
        quantizer = module.quantizer.Quantizer(self.float_model, module.recipe.static_wi8_ai8())
        assert self.dataset is not None
        # A list, since the library goes through it twice. One thread: the order of samples decides the moving averages,
        # and results must repeat.
        return quantizer.calibrate({_signature(self.float_model): list(self.dataset())}, num_threads=1)

    def quantize(self, recipe: Recipe, kept: Mapping[str, str] | None = None) -> bytes:
        """Quantizes by the recipe, but for operators that keep more.

        Args:
            recipe: one whose engine this is.
            kept: name of an operator's (first) output tensor -> "float32" or "int16".

        Raises:
            ConversionError: the library is missing, or refuses.
        """
        module = _library()
        try:
            with silenced(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ranges = self._ranges if recipe.needs_representative_data else None
                quantizer = module.quantizer.Quantizer(self.float_model, _rows(module.recipe, recipe, kept or {}))
                return bytes(quantizer.quantize(ranges).quantized_model)
        except Exception as error:  # its own checks raise ValueError, RuntimeError, KeyError, ...
            raise ConversionError(
                f"ai-edge-quantizer refuses recipe '{recipe.name}': {type(error).__name__}: {first_line(error)}"
            ) from error


def _rows(recipes: Any, recipe: Recipe, kept: Mapping[str, str]) -> list[dict[str, Any]]:
    """The recipe in the library's own form: later rows win."""
    rows = list(_BASE[recipe.activations, recipe.weights, recipe.dynamic](recipes))
    if recipe.needs_representative_data and recipe.input_output_dtype == "float32":
        rows += [_no_quantize(".*", end) for end in ("INPUT", "OUTPUT")]
    for tensor, precision in kept.items():
        pattern = f"(^|;){re.escape(tensor)}(;|$)"
        if precision == "int16":
            rows += [{**row, "regex": pattern} for row in recipes.static_wi8_ai16()]
        else:
            rows.append(_no_quantize(pattern, "*"))
    return rows


def _no_quantize(regex: str, operation: str) -> dict[str, Any]:
    return {"regex": regex, "operation": operation, "algorithm_key": "no_quantize", "op_config": {}}


_BASE: Mapping[tuple[str, str, bool], Callable[[Any], list[dict[str, Any]]]] = {
    ("float32", "int8", True): lambda recipes: recipes.dynamic_wi8_afp32(),
    ("float32", "int4", True): lambda recipes: recipes.dynamic_wi4_afp32(),
    ("float32", "int8", False): lambda recipes: recipes.weight_only_wi8_afp32(),
    ("float32", "int4", False): lambda recipes: recipes.weight_only_wi4_afp32(),
    ("int8", "int8", False): lambda recipes: recipes.static_wi8_ai8(),
    ("int16", "int8", False): lambda recipes: recipes.static_wi8_ai16(),
}


def _library() -> Any:
    try:
        with silenced():
            import ai_edge_quantizer
            from ai_edge_quantizer import quantizer, recipe  # noqa: F401
    except ImportError as error:
        raise ConversionError(
            f"This recipe needs ai-edge-quantizer: {first_line(error)}. Run pip install 'keras-qcqp[quantizer]', or "
            "use a recipe of the TensorFlow converter."
        ) from error
    return ai_edge_quantizer


def _signature(model: bytes) -> str:
    from ai_edge_litert import schema_py_generated as schema

    signatures = schema.Model.GetRootAs(model, 0)
    if signatures.SignatureDefsLength() != 1:
        raise ConversionError("The float file has no signature, so inputs cannot be addressed. Convert it anew.")
    return signatures.SignatureDefs(0).SignatureKey().decode()
