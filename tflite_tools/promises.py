"""Holds a converted file to what its recipe promised; converters keep what they cannot do in float without a word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from tflite_tools.errors import ConversionError, DeviceError
from tflite_tools.flatbuffer import OpFacts, TfliteFacts, read_facts
from tflite_tools.inference import load
from tflite_tools.recipe import Recipe
from tflite_tools.tensors import operator_outputs

_CASTS = ("QUANTIZE", "DEQUANTIZE")
_DEAD = re.compile(r"no_integer_overflow_from_quantization.*?Node number (\d+)", re.DOTALL)


def require_kept(
    data: bytes, recipe: Recipe, float_inputs: Collection[str], select_ops: bool | Collection[str]
) -> None:
    """Checks operators, inputs and outputs, and that an int16 file loads.

    Args:
        data: the converted file.
        recipe: what was asked for.
        float_inputs: signature names of the inputs that are real numbers.
        select_ops: which of TensorFlow's own operators may be in it: none, all, or those named.

    Raises:
        ConversionError: a promise is broken; says what to do.
    """
    facts = read_facts(data)
    _require_builtin(facts, recipe, select_ops)
    if recipe.activations == "float32":
        return
    _require_integers(facts, recipe, float_inputs)
    if recipe.activations == "int16":
        _require_alive(data, recipe)


def require_integers_but(data: bytes, recipe: Recipe, kept: Collection[str]) -> None:
    """Checks that no operator computes in float, but for those whose first output is named.

    Raises:
        ConversionError: others do; names them.
    """
    facts = read_facts(data).operators
    left = [
        _named([output], 0)
        for op, output in zip(facts, operator_outputs(data), strict=False)  # the main graph comes first
        if op.is_float
        and op.name not in _CASTS
        and not any(name in kept for name in (output[1], *output[1].split(";")))
    ]
    if left:
        raise ConversionError(
            f"Recipe '{recipe.name}' left operators in float: {', '.join(left)}. They have no {recipe.activations} "
            "kernel; replace the layers that use them."
        )


def select_operators(facts: TfliteFacts) -> tuple[str, ...]:
    """TensorFlow's own (Flex) operators in a file, each once: they need TensorFlow on the device."""
    return tuple(sorted({op.name.removeprefix("Flex") for op in facts.operators if op.name.startswith("Flex")}))


def _require_builtin(facts: TfliteFacts, recipe: Recipe, allowed: bool | Collection[str]) -> None:
    if allowed is True:
        return
    names = set() if allowed is False else {name.removeprefix("Flex") for name in allowed}
    found = [name for name in select_operators(facts) if name not in names]
    if found:
        raise ConversionError(
            f"Recipe '{recipe.name}' needs operators of TensorFlow itself: {', '.join(found)}. Few devices have them. "
            f"Replace the layers that use them, or allow them: allow_select_ops={sorted({*found, *names})}."
        )


def _require_integers(facts: TfliteFacts, recipe: Recipe, float_inputs: Collection[str]) -> None:
    ends = facts.inputs + facts.outputs
    if recipe.input_output_dtype != "float32":
        left = _counted(facts.float_ops)
        wrong = [tensor for tensor in ends if "float" in tensor.dtype]
    else:
        left, wrong = _counted(op for op in facts.float_ops if op.name not in _CASTS), []
    if left:
        raise ConversionError(
            f"Recipe '{recipe.name}' left operators in float: {left}. They have no {recipe.activations} "
            "kernel; replace the layers that use them, or use recipe 'float32'."
        )
    wrong += [
        t for t in facts.inputs if t.name in float_inputs and t.dtype != recipe.input_output_dtype and t not in wrong
    ]
    if wrong:
        listed = ", ".join(f"'{tensor.name}' {tensor.dtype}" for tensor in wrong)
        raise ConversionError(
            f"Recipe '{recipe.name}' promises {recipe.input_output_dtype} inputs and outputs, but the file "
            f"has {listed}. Please report it with the model."
        )


def _require_alive(data: bytes, recipe: Recipe) -> None:
    """The scales of an activation that is always zero overflow in int16, and only the runtime notices."""
    try:
        load(data)
    except DeviceError as error:
        found = _DEAD.search(str(error.__cause__))
        if found is None:
            raise ConversionError(f"Recipe '{recipe.name}' makes a file that does not load: {error}") from error
        number = int(found[1])
        raise ConversionError(
            f"Recipe '{recipe.name}': dead activation in node {number}, {_named(operator_outputs(data), number)}: on "
            "the representative data it is (nearly) always zero, and int16 has no scale for that. Use data on which it "
            "fires, prune those channels away, or use recipe 'int8'."
        ) from error


def _named(outputs: Sequence[tuple[str, str]], number: int) -> str:
    kind, tensor = outputs[number] if number < len(outputs) else ("an operator", "?")
    return f"{kind} '{tensor}'"


def _counted(operators: Iterable[OpFacts]) -> str:
    counts = Counter(op.name for op in operators)
    # The casts only surround the culprits; name them when they are all there is.
    culprits = {name: n for name, n in counts.items() if name not in _CASTS} or counts
    return ", ".join(f"{name} x{n}" for name, n in culprits.items())
