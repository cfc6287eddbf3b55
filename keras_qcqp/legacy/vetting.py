"""What a Keras 2 file may ask for: loading it must not run code that came with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keras_qcqp.errors import ModelError
from keras_qcqp.legacy.operations import supported

_PARTS = """activations constraints initializers layers losses metrics mixed_precision models optimizers
    regularizers""".split()
_HOMES = tuple(f"{root}.{part}" for root in ("keras", "tf_keras") for part in _PARTS)
_ROOTS = ("keras", "tf_keras")
_MODELS = ("Functional", "Model", "Sequential")
_FUNCTIONS = ("TFOpLambda", "SlicingOpLambda")
_CODE = ("ClassMethod", "InstanceMethod", "InstanceProperty", "TensorFlowOpLayer", "TFSMLayer", "__lambda__")
_HARD_SIGMOID = "hard_sigmoid"


def require_harmless(config: Any, path: str) -> None:
    """Raises ModelError if the configuration of a model names code, or anything outside of Keras' own parts."""
    for item in _mappings(config):
        names = [str(item.get(key)) for key in ("class_name", "registered_name") if item.get(key) is not None]
        module = item.get("module")
        code = [name for name in names if name == "Lambda" or name in _CODE]
        if code:
            raise ModelError(
                f"'{path}' is not a readable Keras model: it holds a {code[0].strip('_')} layer, which is code. Load "
                "it yourself, if you trust it, and prune it from Python."
            )
        called = _inner(item).get("function")
        if any(name in _FUNCTIONS for name in names) and not supported(called):
            raise ModelError(
                f"'{path}' cannot be converted: layer '{_inner(item).get('name')}' calls tf.{called}, which has no "
                "counterpart here."
            )
        if module is not None and not _at_home(module, names, item.get("config")):
            raise ModelError(
                f"'{path}' is not a readable Keras model: it uses '{module}.{names[0] if names else ''}', which is not "
                "a part of Keras. Load it with tf_keras yourself, if you trust it, and give the model to "
                "keras_qcqp.from_tf_keras."
            )


def uses_hard_sigmoid(config: Any) -> bool:
    """A name that stands for another function in Keras 3, which would load the file without a word."""
    return any(
        _HARD_SIGMOID in (value for value in item.values() if isinstance(value, str)) for item in _mappings(config)
    )


def _at_home(module: Any, names: list[str], config: Any) -> bool:
    """Whether tf_keras finds these names among its public parts, or they are models or TensorFlow functions of it."""
    if not isinstance(module, str) or any("." in name for name in names) or (isinstance(config, str) and "." in config):
        return False  # a.b is b of whatever is called a in the module
    if module.partition(".")[0] in _ROOTS and names and set(names) <= {*_MODELS, *_FUNCTIONS}:
        return True
    return any(module == home or module.startswith(f"{home}.") for home in _HOMES)


def _inner(item: Mapping[str, Any]) -> Mapping[str, Any]:
    config = item.get("config")
    return config if isinstance(config, Mapping) else {}


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for item in value.values():
            yield from _mappings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _mappings(item)
