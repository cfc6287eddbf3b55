"""Networks that others drew: the constructors of model zoos, found by inspection, with random weights.

A zoo is a table name -> builder; a builder makes the model for square images of a given side. No list of models is kept
here. `keras_hub` and `kecam` (keras-cv-attention-models) are the optional extra `zoo`.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import fnmatch
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras.src.backend.common.stateless_scope import StatelessScope

Builder = Callable[[int], keras.Model]
Builders = dict[str, Builder]


@dataclasses.dataclass(frozen=True)
class Zoo:
    """A source of models.

    Attributes:
        package: what has to be installed.
        find: all constructors; quick, no model is built.
        sides: of images to try, ascending.
        choose: which of them are measured; all if None.
    """

    package: str
    find: Callable[[], Builders]
    sides: Sequence[int]
    choose: Callable[[Zoo, Builders], list[str]] | None = None

    @property
    def installed(self) -> bool:
        """Whether its package can be imported."""
        return importlib.util.find_spec(self.package) is not None

    def names(self, patterns: Sequence[str] = ("*",)) -> list[str]:
        """The models that are measured, chosen among those whose names match a pattern."""
        builders = {n: b for n, b in self.find().items() if any(fnmatch.fnmatchcase(n, p) for p in patterns)}
        return list(builders) if self.choose is None else self.choose(self, builders)

    def smallest(self, build: Builder) -> tuple[int, keras.Model]:
        """The smallest image that a builder accepts, and its model for it.

        Raises:
            ValueError: it accepts none; carries the first and the last complaint.
        """
        complaints = []
        for side in self.sides:
            try:
                return side, build(side)
            except Exception as error:  # builders complain in many ways
                complaints.append(f"at {side} {type(error).__name__}: {error}")
                keras.backend.clear_session()
        raise ValueError(f"cannot be built, {complaints[0]:.300}; {complaints[-1]:.300}")


def keras_applications() -> Builders:
    """Every public constructor of keras.applications."""
    makers = [(name, make) for name, make in vars(keras.applications).items() if inspect.isfunction(make)]
    return {name: _for_images(make, weights=None) for name, make in sorted(makers) if "weights" in _parameters(make)}


def _for_images(make: Callable[..., keras.Model], **options: Any) -> Builder:
    """Outputs are logits where the constructor can leave the softmax out: that of noise is nearly constant."""
    if "classifier_activation" in _parameters(make):
        options["classifier_activation"] = None
    return lambda side: make(input_shape=(side, side, 3), **options)


def _parameters(make: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(make).parameters)


def attention_models() -> Builders:
    """The constructors of keras-cv-attention-models, as "module Constructor".

    The package speaks to Keras 3 under its former name keras_core, and imports PyTorch for its data pipelines.
    """
    os.environ["KECAM_BACKEND"] = "keras_core"
    sys.modules["keras_core"] = keras
    if importlib.util.find_spec("torch") is None:
        stand_ins = ("torch", "torch.nn", "torch.nn.functional", "torch.utils", "torch.utils.data")
        sys.modules.update((name, mock.MagicMock(__spec__=None)) for name in stand_ins)
    package = importlib.import_module("keras_cv_attention_models")
    found = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None):
        module = sys.modules.get(info.name)  # imported with the package, unless it serves another back end
        for name, make in vars(module).items() if module else ():
            if inspect.isfunction(make) and name[0].isupper() and make.__module__ == info.name and _is_complete(make):
                found[f"{info.name.rpartition('.')[2]} {name}"] = _for_images(make, pretrained=None)
    return found


def _is_complete(make: Callable[..., Any]) -> bool:
    """Whether it can be called with an image size and nothing else."""
    parameters = inspect.signature(make).parameters
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return {"pretrained", "input_shape"} <= set(parameters) and not needed


def light(zoo: Zoo, builders: Builders) -> list[str]:
    """Those with inputs of known sizes and few parameters; no variable is made to find out. Says why of the others."""
    return [name for name, build in builders.items() if _is_light(zoo, name, build)]


def first_light(zoo: Zoo, builders: Builders) -> list[str]:
    """Of every module the first such constructor, as they stand in the source: small ones tend to come first."""
    found: dict[str, str] = {}
    tried = collections.Counter[str]()
    for name, build in builders.items():
        module = name.partition(" ")[0]
        if module not in found and tried[module] < _PATIENCE:
            tried[module] += 1
            if _is_light(zoo, name, build):
                found[module] = name
    return sorted(found.values())


_MOST_PARAMETERS = 50_000_000
_PATIENCE = 4
"""Constructors of one module that are tried: where these fail, the others do as well."""


def _is_light(zoo: Zoo, name: str, build: Builder) -> bool:
    keras.backend.clear_session()
    try:
        with StatelessScope(initialize_variables=False):
            model = zoo.smallest(build)[1]
    except ValueError as error:
        reason = str(error)
    else:
        unknown = [x.shape for x in model.inputs if None in x.shape[1:]]
        reason = f"inputs of unknown size {unknown}" if unknown else ""
        if model.count_params() > _MOST_PARAMETERS:
            reason = f"{model.count_params():,} parameters"
    if reason:
        print(f"left out: {name}: {' '.join(reason.split())}", file=sys.stderr, flush=True)
    return not reason


def backbones() -> Builders:
    """Backbones of keras_hub as their docstrings write them, and as their converters translate timm's names."""
    hub = importlib.import_module("keras_hub")
    found: Builders = {}
    for name, cls in sorted(vars(hub.models).items()):
        if inspect.isclass(cls) and name.endswith("Backbone"):
            for number, make in enumerate(_documented(cls), 1):
                found[f"{name} #{number}"] = make
    timm = importlib.import_module("keras_hub.src.utils.timm")
    for info in pkgutil.iter_modules(timm.__path__, f"{timm.__name__}."):
        module = importlib.import_module(info.name)
        for word, options in _translated(module) if hasattr(module, "convert_backbone_config") else ():
            found[f"{module.backbone_cls.__name__} {word}"] = _backbone(module.backbone_cls, lambda o=options: o)
    return found


def _backbone(cls: type, options: Callable[[], dict[str, Any]]) -> Builder:
    """With an image size where the class knows one; without it no cost could be counted."""

    def build(side: int) -> keras.Model:
        size = {"image_shape": (side, side, 3)} if "image_shape" in _parameters(cls) else {}
        return cls(**{**options(), **size})

    return build


def _documented(cls: type) -> Iterator[Builder]:
    """Every call of the class, with arguments, in the examples of its docstring."""
    for block in re.findall(r"```(?:python)?\n(.*?)```", inspect.getdoc(cls) or "", re.DOTALL):
        statements = _statements(block)
        for number, statement in enumerate(statements):
            call = getattr(statement, "value", None)
            made = isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == cls.__name__
            if made and call.keywords:
                yield _backbone(cls, lambda call=call, before=statements[:number]: _evaluated(call, before))


def _statements(block: str) -> Sequence[ast.stmt]:
    try:
        return ast.parse(block).body
    except SyntaxError:
        return []


def _evaluated(call: ast.Call, before: Sequence[ast.stmt]) -> dict[str, Any]:
    """The keyword arguments of a documented call, after the assignments above it; nothing is downloaded."""
    names = {"keras_hub": importlib.import_module("keras_hub"), "keras": keras, "np": np}
    needed = {n.id for k in call.keywords for n in ast.walk(k.value) if isinstance(n, ast.Name)}
    wanted = []
    for statement in reversed(before):
        targets = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if targets & needed and isinstance(statement, ast.Assign) and "from_preset" not in ast.unparse(statement):
            needed |= {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
            wanted.append(statement)
    exec("\n".join(map(ast.unparse, reversed(wanted))), names)
    return {k.arg: eval(ast.unparse(k.value), names) for k in call.keywords if k.arg}


def _translated(module: types.ModuleType) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every text in a converter's source that it takes for the name of an architecture, and what it makes of it."""
    words = {n.value for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.Constant)}
    known = set[str]()
    for word in sorted(w for w in words if isinstance(w, str) and re.fullmatch(r"[a-z][a-z0-9_]*[0-9][a-z0-9_]*", w)):
        try:
            options = module.convert_backbone_config({"architecture": word})
        except Exception:  # not a name
            continue
        if repr(options) not in known:  # two names of one architecture
            known.add(repr(options))
            yield word, options


ZOOS = {
    "keras": Zoo("keras", keras_applications, range(32, 332)),  # too small ones are refused at once
    "keras_hub": Zoo("keras_hub", backbones, (64, 224), light),
    "kecam": Zoo("keras_cv_attention_models", attention_models, (64, 224), first_light),
}
