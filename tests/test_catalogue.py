"""Every built-in layer has a probe, does what the README says, and obeys the law."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from networks import images, outputs, shake
from test_law import require_law

from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.rules import encoding, find
from keras_qcqp.rules import images as image_rules
from tests import catalogue
from tests.probes import NO_PROBE, PROBES, Probe

README = catalogue.README.read_text()
CASES = [
    pytest.param(name, probe, id=f"{name} {probe.how}".strip())
    for name in catalogue.layer_classes()
    for probe in PROBES.get(name, ())
]
IMAGES = {cls.__name__ for cls in image_rules.RULES}  # the law is tested where they train
OWN = {cls.__name__ for cls in encoding.RULES} | {
    *(f"{kind}{n}D" for kind in ("Cropping", "UpSampling", "ZeroPadding") for n in (1, 2, 3)),
    *"Dot RepeatVector Flatten Reshape Permute Activation Softmax".split(),
}


def test_no_layer_class_is_missing():
    """A new Keras release with a new layer fails here: write a probe for it, and a rule."""
    assert sorted(set(catalogue.layer_classes()) - set(PROBES) - set(NO_PROBE)) == []
    assert set(PROBES).isdisjoint(NO_PROBE)


def test_the_readme_says_what_happens():
    made_with = re.search(r"with Keras ([\d.]+)\.", README).group(1)
    if made_with != keras.__version__:
        pytest.skip(f"the README's table was made with Keras {made_with}, here is {keras.__version__}")
    layers = catalogue.layer_table(catalogue.catalogue())
    assert catalogue.document(README, layers, catalogue.operation_table()) == README, (
        "README.md is out of date; run: python -m tests.catalogue --write"
    )


def test_the_table_would_notice():
    """A rule that goes missing changes the verdict."""
    from keras_qcqp.rules import RULES

    probe = PROBES["ReLU"][0]
    assert catalogue.judge("ReLU", probe) == catalogue.Found("passes")
    rule = RULES.pop(keras.layers.ReLU)
    try:
        assert catalogue.judge("ReLU", probe) == catalogue.Found("frozen", "no rule yet")
    finally:
        RULES[keras.layers.ReLU] = rule


def built(probe: Probe) -> keras.Model:
    keras.backend.clear_session()
    try:
        return shake(probe.build())
    except (ImportError, ValueError) as error:
        assert set(probe_names(probe)) <= NO_MODEL, error
        pytest.skip(f"not a Functional model here: {error}")


NO_MODEL = {"Equalization", "FlaxLayer", "JaxLayer", "TorchModuleWrapper"}
"""Keras cannot build a Functional model with the first; the others need their framework."""


def probe_names(probe: Probe) -> list[str]:
    return [name for name, probes in PROBES.items() if probe in probes]


@pytest.mark.parametrize(("name", "probe"), [case for case in CASES if case.values[0] in OWN])
def test_law_on_layers_without_kernels(name, probe):
    require_law(built(probe), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "probe"), [case for case in CASES if case.values[0] not in OWN | IMAGES])
def test_law_on_all_other_layers(name, probe):
    require_law(built(probe), 0)


@pytest.mark.parametrize("cls", image_rules.RULES, ids=lambda cls: cls.__name__)
def test_image_layers_train_on_what_is_left(cls):
    """Augmentation runs on fewer channels than before, or is frozen."""
    model = built(PROBES[cls.__name__][0])
    coupling = couple(read(model))
    assert find(cls) is image_rules.by_colour or not coupling.frozen
    smaller = require_law(model, 3)
    keras.tree.map_structure(keras.ops.convert_to_numpy, smaller(images(model)[0], training=True))


@pytest.mark.parametrize("name", ["IntegerLookup", "StringLookup", "TextVectorization"])
def test_vocabularies_go_along(name):
    model = shake(PROBES[name][0].build())
    smaller = require_law(model, 0)
    assert smaller.get_layer("probe").get_vocabulary() == model.get_layer("probe").get_vocabulary()
    np.testing.assert_array_equal(outputs(smaller, images(model))[0], outputs(model, images(model))[0])
