"""What a network costs once it is deployed as a `.tflite` file; neither TensorFlow nor a converter is needed.

The file is foretold operator by operator: `lowering` says what each layer becomes, `order` in which order the converter
writes the operators, `fusion` which of them it fuses or drops, `requantizing` where an integer file changes scales.
Then `lifetimes` knows what lives at once, and `file_size` what is stored. All of it was learnt from files written by
the converter of TensorFlow 2.21.

The peak is exact, but for three things that are counted too large, never too small:

* operators of which nothing is known (layer normalisation, `channels_first`): two more tensors as large as the largest
  they touch;
* integer files with concatenations that share operands (DenseNet written with one long concatenation for each layer):
  whether an operand is stored once for each of them depends on the data;
* union residuals: aligning the operands depends on the order of channels, which is chosen after the selection; and
  outputs that are corrected for dropped channels, such as a mean over channels.

It is told for trained weights: the converter also drops what happens to do nothing, and does not fuse the activation of
a Conv2DTranspose whose bias is all zero.

The size is an upper bound within a few hundred bytes of the truth for each hundred tensors: padding is counted as large
as it may become, and tensor names as long.
"""

from __future__ import annotations

from collections.abc import Iterator

from keras_qcqp.coupling import Coupling
from keras_qcqp.deployed.duplicates import merge_alike
from keras_qcqp.deployed.file_size import file_terms_of
from keras_qcqp.deployed.fusion import fuse
from keras_qcqp.deployed.lifetimes import live_sets
from keras_qcqp.deployed.lowering import lower
from keras_qcqp.deployed.order import execution_order
from keras_qcqp.deployed.program import Op, Program
from keras_qcqp.deployed.requantizing import requantize
from keras_qcqp.errors import BudgetError, did_you_mean
from keras_qcqp.terms import Term, item_bytes

RECIPES = {"float32": 4, "int8": 1}
"""Number format of the deployed file -> bytes of one value of an activation."""


def require_recipe(recipe: str) -> None:
    """Raises BudgetError unless `recipe` is in `RECIPES`."""
    if recipe not in RECIPES:
        raise BudgetError(f"Unknown recipe {recipe!r}. {did_you_mean(recipe, tuple(RECIPES))}")


def deployed(coupling: Coupling, recipe: str, resource: str = "peak_bytes") -> Program:
    """The operators of the file.

    Args:
        resource: what is being counted, for the error.

    Raises:
        BudgetError: a spatial size is unknown, or the recipe.
    """
    require_recipe(recipe)
    program = lower(coupling, resource)
    order = execution_order(program)
    program = fuse(merge_alike(program, order), order)
    return requantize(program) if recipe == "int8" else program


def peak_steps(coupling: Coupling, recipe: str) -> tuple[tuple[str, tuple[Term, ...]], ...]:
    """For each operator, in order of execution: its name, and the bytes of all tensors alive while it runs.

    Each term has one factor at most; its node is the call whose tensor it counts.

    Raises:
        BudgetError: a spatial size is unknown, or the recipe.
    """

    def bytes_of(alive: list[Op]) -> tuple[Term, ...]:
        return tuple(
            term.times(RECIPES[recipe] if "float" in op.value.dtype else item_bytes(op.value.dtype))
            for op in alive
            for term in op.value.elements(op.node)
        )

    return tuple((op.label, bytes_of(alive)) for op, alive in live_sets(deployed(coupling, recipe)))


def file_terms(coupling: Coupling, recipe: str) -> Iterator[Term]:
    """Terms with up to two factors whose sum the size of the file in bytes never exceeds.

    Raises:
        BudgetError: a spatial size is unknown, or the recipe.
    """
    return file_terms_of(deployed(coupling, recipe, "tflite_bytes"), recipe)
