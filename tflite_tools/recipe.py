"""How numbers are stored and computed in a `.tflite`: one row of a table per recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tflite_tools.errors import RecipeError, did_you_mean

ACTIVATIONS = ("float32", "int8", "int16")
WEIGHTS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Recipe:
    """One way to convert; add it to a call as it is, or to `RECIPES` under a name.

    Attributes:
        name: what users type.
        activations: dtype in which the operators exchange values, one of `ACTIVATIONS`.
        weights: dtype in which the constants are stored, one of `WEIGHTS`.
        input_output_dtype: dtype of the model's float inputs and outputs; integer inputs stay as they are.
        summary: half a sentence for tables and help texts.

    Raises:
        RecipeError: an unknown dtype, or integer activations with weights that are not int8.
    """

    name: str
    activations: str
    weights: str
    input_output_dtype: str
    summary: str = ""

    def __post_init__(self) -> None:
        for field, value, known in (
            ("activations", self.activations, ACTIVATIONS),
            ("weights", self.weights, WEIGHTS),
            (
                "input_output_dtype",
                self.input_output_dtype,
                tuple(dict.fromkeys(("float32", self.activations))),
            ),
        ):
            if value not in known:
                raise RecipeError(f"Recipe '{self.name}': {field} is '{value}'. {did_you_mean(value, known)}")
        if self.needs_representative_data and self.weights != "int8":
            raise RecipeError(
                f"Recipe '{self.name}': activations '{self.activations}' need weights 'int8', not '{self.weights}'."
            )

    @property
    def needs_representative_data(self) -> bool:
        """Integer activations need scales, and only real samples tell which values occur."""
        return self.activations != "float32"

    @property
    def is_quantized(self) -> bool:
        """Whether anything is stored in fewer bits than the Keras model has."""
        return self.weights != "float32"


_ROWS = (
    Recipe("float32", "float32", "float32", "float32", "unchanged numbers"),
    Recipe("int8", "int8", "int8", "int8", "integers throughout, one scale per output channel"),
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
