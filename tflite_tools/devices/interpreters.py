"""LiteRT interpreters, by the name of the one who computes."""

from __future__ import annotations

from typing import Any

from tflite_tools.quiet import silenced

DELEGATES = ("xnnpack", "builtin")  # the default comes first


def load(model: bytes | str, num_threads: int, delegate: str) -> Any:
    """An interpreter with its tensors allocated, of a file or its content.

    Raises:
        RuntimeError, ValueError: LiteRT refuses the model.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolvers = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    source = {"model_path": model} if isinstance(model, str) else {"model_content": model}
    with silenced():
        interpreter = Interpreter(**source, num_threads=num_threads, experimental_op_resolver_type=resolvers[delegate])
        interpreter.allocate_tensors()
    return interpreter
