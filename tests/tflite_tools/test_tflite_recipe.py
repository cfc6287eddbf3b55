"""The table of recipes and the refusals of a wrong row."""

import dataclasses

import pytest

from tflite_tools.errors import RecipeError, TfliteToolsError
from tflite_tools.recipe import RECIPES, Recipe, get_recipe


def test_table_rows_are_named_by_their_keys():
    assert set(RECIPES) >= {"float32", "int8"}
    assert all(recipe.name == name and recipe.summary for name, recipe in RECIPES.items())


def test_float32_needs_nothing_and_int8_needs_data():
    assert not RECIPES["float32"].needs_representative_data
    assert not RECIPES["float32"].is_quantized
    assert RECIPES["int8"].needs_representative_data
    assert RECIPES["int8"].is_quantized
    assert RECIPES["int8"].input_output_dtype == "int8"


def test_recipes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["int8"].weights = "float32"
    with pytest.raises(TypeError):
        RECIPES["mine"] = RECIPES["int8"]


def test_a_recipe_passes_through():
    mine = Recipe("mine", "int8", "int8", "float32")
    assert get_recipe(mine) is mine


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(RecipeError) as caught:
        get_recipe("itn8")
    assert str(caught.value).startswith("There is no recipe 'itn8'. Did you mean 'int8'? Known: float32, float16")
    assert isinstance(caught.value, (TfliteToolsError, ValueError))


def test_other_types_are_refused():
    with pytest.raises(RecipeError, match="A recipe is a name or a Recipe, got int."):
        get_recipe(8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("x", "int9", "int8", "int8"), "Recipe 'x': activations is 'int9'. Did you mean 'int8'?"),
        (("x", "float32", "float8", "float32"), "Recipe 'x': weights is 'float8'. Did you mean 'float32'?"),
        (("x", "float32", "int8", "int8"), "Recipe 'x': input_output_dtype is 'int8'. Known: float32."),
        (
            ("x", "int8", "float32", "int8"),
            "Recipe 'x': activations 'int8' need weights 'int8', not 'float32'.",
        ),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(RecipeError) as caught:
        Recipe(*fields)
    assert str(caught.value).startswith(message)
