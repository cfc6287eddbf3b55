"""`import keras_qcqp` is cheap, and every public name arrives when it is asked for."""

from __future__ import annotations

import pytest

import keras_qcqp

HEAVY = ("tensorflow", "keras", "ortools", "jax", "torch", "numpy", "absl")


def test_importing_the_package_imports_nothing_heavy(run_python):
    code = f"import sys, keras_qcqp; dir(keras_qcqp); print([m for m in {HEAVY} if m in sys.modules])"
    process = run_python("-c", code)
    assert (process.returncode, process.stdout) == (0, "[]\n"), process.stderr


@pytest.mark.parametrize(
    "use",
    [
        "keras_qcqp.Budget(macs=0.5)",
        "keras_qcqp.QcqpError",
        "keras_qcqp.solve(keras_qcqp.Problem((keras_qcqp.Mask('a', 1, (1,)),), {}, (), (), {}))",
    ],
)
def test_data_and_solver_need_no_framework(run_python, use):
    """Problems are solved without Keras, and OR-Tools stays in the worker process."""
    code = f"import sys, keras_qcqp; {use}; print([m for m in ('tensorflow', 'keras', 'ortools') if m in sys.modules])"
    process = run_python("-c", code)
    assert (process.returncode, process.stdout) == (0, "[]\n"), process.stderr


@pytest.mark.parametrize("name", keras_qcqp.__all__)
def test_every_public_name_resolves_at_its_home(name):
    found = getattr(keras_qcqp, name)
    assert found.__name__ == name if hasattr(found, "__name__") else found is not None
    assert name in dir(keras_qcqp)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'keras_qcqp' has no attribute 'prun'$"):
        _ = keras_qcqp.prun
    assert not hasattr(keras_qcqp, "__wrapped__")


def test_the_version_is_a_version():
    assert all(part.isdigit() for part in keras_qcqp.__version__.split("."))


def test_import_star_gives_the_public_names():
    namespace: dict[str, object] = {}
    exec("from keras_qcqp import *", namespace)
    assert set(keras_qcqp.__all__) <= set(namespace)
