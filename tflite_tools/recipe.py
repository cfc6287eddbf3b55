"""How numbers are stored and computed in a `.tflite`: one row of a table per recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tflite_tools.errors import RecipeError, did_you_mean

ACTIVATIONS = ("float32", "int8", "int16")
WEIGHTS = ("float32", "float16", "int8", "int4")
ENGINES = ("tensorflow", "ai_edge_quantizer")


@dataclass(frozen=True)
class Recipe:
    """One way to convert; add it to a call as it is, or to `RECIPES` under a name.

    Attributes:
        name: what users type.
        activations: dtype in which the operators exchange values, one of `ACTIVATIONS`.
        weights: dtype in which the constants are stored, one of `WEIGHTS`.
        input_output_dtype: dtype of the model's float inputs and outputs; integer inputs stay as they are.
        summary: half a sentence for tables and help texts.
        engine: who quantizes: "tensorflow" (its converter) or "ai_edge_quantizer", which works on the float file.
        dynamic: float activations, but products computed in integers, with scales found at run time.

    Raises:
        RecipeError: an unknown dtype, integer activations with weights that are not int8, or what the engine cannot do.
    """

    name: str
    activations: str
    weights: str
    input_output_dtype: str
    summary: str = ""
    engine: str = "tensorflow"
    dynamic: bool = False

    def __post_init__(self) -> None:
        offered = ("float32", self.activations, *(("uint8",) if self.activations == "int8" else ()))
        for field, value, known in (
            ("activations", self.activations, ACTIVATIONS),
            ("weights", self.weights, WEIGHTS),
            ("input_output_dtype", self.input_output_dtype, tuple(dict.fromkeys(offered))),
            ("engine", self.engine, ENGINES),
        ):
            if value not in known:
                raise RecipeError(f"Recipe '{self.name}': {field} is '{value}'. {did_you_mean(value, known)}")
        if self.needs_representative_data and self.weights != "int8":
            raise RecipeError(
                f"Recipe '{self.name}': activations '{self.activations}' need weights 'int8', not '{self.weights}'."
            )
        _require_engine(self)

    @property
    def needs_representative_data(self) -> bool:
        """Integer activations need scales, and only real samples tell which values occur."""
        return self.activations != "float32"

    @property
    def is_quantized(self) -> bool:
        """Whether anything is stored in fewer bits than the Keras model has."""
        return self.weights != "float32"


def _require_engine(recipe: Recipe) -> None:
    """Each engine can do what the other cannot."""
    integers = recipe.weights in ("int8", "int4")
    if recipe.dynamic and (recipe.needs_representative_data or not integers):
        raise RecipeError(f"Recipe '{recipe.name}': dynamic means float32 activations and weights int8 or int4.")
    if recipe.engine == "tensorflow":
        weights_only = integers and not recipe.needs_representative_data and not recipe.dynamic
        if recipe.weights == "int4" or weights_only:
            raise RecipeError(
                f"Recipe '{recipe.name}': the TensorFlow converter has no int4 and no integer weights alone. "
                "Use engine='ai_edge_quantizer'."
            )
    elif not integers or recipe.input_output_dtype == "uint8":
        raise RecipeError(
            f"Recipe '{recipe.name}': ai_edge_quantizer stores integers and has no uint8. Use engine='tensorflow'."
        )


_EDGE = "ai_edge_quantizer"
_ROWS = (
    Recipe("float32", "float32", "float32", "float32", "unchanged numbers"),
    Recipe("float16", "float32", "float16", "float32", "weights in half precision, computed in float32"),
    Recipe("dynamic_int8", "float32", "int8", "float32", "int8 weights, scales found at run time", dynamic=True),
    Recipe("int8", "int8", "int8", "int8", "integers throughout, one scale per output channel"),
    Recipe("int8_uint8_io", "int8", "int8", "uint8", "int8, but bytes 0..255 go in and out"),
    Recipe("int8_float_io", "int8", "int8", "float32", "int8, but real numbers go in and out"),
    Recipe("int16x8", "int16", "int8", "int16", "int16 activations, int8 weights; slow without special kernels"),
    Recipe("int16x8_float_io", "int16", "int8", "float32", "int16x8, but real numbers go in and out"),
    Recipe("weight_int8", "float32", "int8", "float32", "int8 weights, computed in float32", _EDGE),
    Recipe("weight_int4", "float32", "int4", "float32", "int4 weights, computed in float32", _EDGE),
    Recipe("dynamic_int4", "float32", "int4", "float32", "int4 weights, scales found at run time", _EDGE, True),
    Recipe("edge_int8", "int8", "int8", "int8", "int8 by ai-edge-quantizer", _EDGE),
    Recipe("edge_int16x8", "int16", "int8", "int16", "int16x8 by ai-edge-quantizer", _EDGE),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({row.name: row for row in _ROWS})


def get_recipe(recipe: str | Recipe) -> Recipe:
    """Takes a `Recipe` as it is and looks a name up in `RECIPES`.

    Raises:
        RecipeError: the name is unknown, or `recipe` is neither a name nor a `Recipe`.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise RecipeError(f"A recipe is a name or a Recipe, got {type(recipe).__name__}. Known: {', '.join(RECIPES)}.")
    if recipe not in RECIPES:
        raise RecipeError(f"There is no recipe '{recipe}'. {did_you_mean(recipe, RECIPES)}")
    return RECIPES[recipe]
