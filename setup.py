"""Installs keras-qcqp: the packages keras_qcqp and tflite_tools, and their command lines."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "keras_qcqp/__init__.py").read_text(), re.MULTILINE).group(1)

PLOT = ["matplotlib>=3.8"]  # tflite_profile --plot
REAL_DATA = ["pillow>=10", "scikit-learn>=1.4"]
ETHOS_U = ["ethos-u-vela>=4.0"]  # Arm's compiler and its cycle estimates
JAX = ["jax>=0.4.34"]  # for CPUs: 90 MB to download
ANDROID = ["adbutils>=2.8"]  # for the copy of adb inside
QUANTIZER = ["ai-edge-quantizer>=0.10"]  # works on the float .tflite; pins ai-edge-litert to its own version
EXTRAS = {
    "android": ANDROID,
    "backends": [*JAX, "torch>=2.4"],
    # tensorflow-model-optimization wants absl-py < 2, which on Python 3.11 and 3.12 brings an older OR-Tools along.
    "qat": ["tensorflow-model-optimization>=0.8.1", "tf_keras>=2.18"],
    "ethos_u": ETHOS_U,
    "quantizer": QUANTIZER,  # recipes with int4 weights or with weights alone, and mixed precision
    "examples": REAL_DATA,
    # tests/benchmarks: other solvers (cplex is the community edition); another pruner, which runs in its own process
    "peers": ["cplex>=22.1", "pyscipopt>=5", "torch>=2.4", "torch-pruning>=1.6.1"],
    "plot": PLOT,
    "tensorboard": ["tensorboard>=2.18"],  # finetune(tensorboard_dir=...)
    # tests/benchmarks/zoos.py; tried with --no-deps, without tensorflow-text (keras-hub wants Python 3.11)
    "zoo": ["keras-cv-attention-models>=1.4.3", "keras-hub>=0.32"],
    "test": [
        "hypothesis>=6.100",
        "mypy>=1.11",
        "pytest>=8",
        "pytest-xdist>=3.5",
        "ruff>=0.6",
        "tf_keras>=2.18",
        *ANDROID,
        *ETHOS_U,
        *JAX,
        *PLOT,
        *QUANTIZER,
        *REAL_DATA,
    ],
}
EXTRAS["dev"] = EXTRAS["test"]

setup(
    name="keras-qcqp",
    version=VERSION,
    description="Prunes trained Keras CNNs to hard budgets by exact channel selection, and takes them to the edge.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["keras_qcqp*", "tflite_tools*"]),
    package_data={"keras_qcqp": ["py.typed"], "tflite_tools": ["py.typed"]},
    install_requires=[
        "absl-py>=1.2",
        "ai-edge-litert>=2.0",
        "h5py>=3.7",
        "keras>=3.8",
        "numpy>=1.26",
        "ortools>=9.7",
        "pandas>=2.0",  # OR-Tools 9.7 imports it without saying so
        "rich>=13",
        "tensorflow>=2.18",
        "threadpoolctl>=3.1",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "keras_qcqp_finetune = keras_qcqp.finetune_main:run",
            "keras_qcqp_prune = keras_qcqp.prune_main:run",
            "keras_qcqp_taper = keras_qcqp.taper_main:run",
            "tflite_convert = tflite_tools.convert_main:run",
            "tflite_devices = tflite_tools.devices_main:run",
            "tflite_export = tflite_tools.export_main:run",
            "tflite_facts = tflite_tools.facts_main:run",
            "tflite_fit_latency = tflite_tools.fit_latency_main:run",
            "tflite_profile = tflite_tools.profile_main:run",
            "tflite_qat = tflite_tools.qat_main:run",
        ],
        "keras_qcqp.meters": ["tflite = tflite_tools.latency.verifying:measure"],  # prune(verify=True)
    },
    # "build" would collide with the file BUILD where file names ignore case.
    options={"build": {"build_base": ".build"}},
)
