"""Turns Keras models into `.tflite` files and measures them: recipe -> convert -> profile.

Importing this package loads neither TensorFlow nor LiteRT; each public name is fetched on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tflite_tools.aware.launch import QatResult as QatResult
    from tflite_tools.aware.launch import qat as qat
    from tflite_tools.aware.settings import QatSettings as QatSettings
    from tflite_tools.bundle import BundleOptions as BundleOptions
    from tflite_tools.bundle import export as export
    from tflite_tools.conversion import convert as convert
    from tflite_tools.devices.base import TimingOptions as TimingOptions
    from tflite_tools.errors import ConversionError as ConversionError
    from tflite_tools.errors import DeviceError as DeviceError
    from tflite_tools.errors import OutputFileError as OutputFileError
    from tflite_tools.errors import ProfileError as ProfileError
    from tflite_tools.errors import QatError as QatError
    from tflite_tools.errors import QatWarning as QatWarning
    from tflite_tools.errors import RecipeError as RecipeError
    from tflite_tools.errors import RepresentativeDataError as RepresentativeDataError
    from tflite_tools.errors import RepresentativeDataWarning as RepresentativeDataWarning
    from tflite_tools.errors import TfliteFileError as TfliteFileError
    from tflite_tools.errors import TfliteToolsError as TfliteToolsError
    from tflite_tools.errors import VerificationError as VerificationError
    from tflite_tools.flatbuffer import TfliteFacts as TfliteFacts
    from tflite_tools.flatbuffer import read_facts as read_facts
    from tflite_tools.inference import predict as predict
    from tflite_tools.keras_models import load_keras_model as load_keras_model
    from tflite_tools.latency.fitting import FitOptions as FitOptions
    from tflite_tools.latency.fitting import fit_latency as fit_latency
    from tflite_tools.latency.model import LatencyModel as LatencyModel
    from tflite_tools.mixing import MixBudget as MixBudget
    from tflite_tools.mixing import Mixed as Mixed
    from tflite_tools.mixing import mix as mix
    from tflite_tools.profiles import Comparison as Comparison
    from tflite_tools.profiles import Profile as Profile
    from tflite_tools.profiling import compare_latency as compare_latency
    from tflite_tools.profiling import profile as profile
    from tflite_tools.recipe import RECIPES as RECIPES
    from tflite_tools.recipe import Recipe as Recipe
    from tflite_tools.sampling import Calibration as Calibration
    from tflite_tools.verification import Verification as Verification
    from tflite_tools.verification import compare as compare

# No module may carry a public name: importing the submodule would put itself in the function's place.
_HOME = {
    "BundleOptions": "bundle",
    "export": "bundle",
    "convert": "conversion",
    "load_keras_model": "keras_models",
    "TimingOptions": "devices.base",
    "ConversionError": "errors",
    "DeviceError": "errors",
    "OutputFileError": "errors",
    "ProfileError": "errors",
    "QatResult": "aware.launch",
    "qat": "aware.launch",
    "QatSettings": "aware.settings",
    "QatError": "errors",
    "RecipeError": "errors",
    "RepresentativeDataError": "errors",
    "QatWarning": "errors",
    "RepresentativeDataWarning": "errors",
    "TfliteFileError": "errors",
    "TfliteToolsError": "errors",
    "VerificationError": "errors",
    "TfliteFacts": "flatbuffer",
    "read_facts": "flatbuffer",
    "predict": "inference",
    "FitOptions": "latency.fitting",
    "fit_latency": "latency.fitting",
    "LatencyModel": "latency.model",
    "Comparison": "profiles",
    "Profile": "profiles",
    "compare_latency": "profiling",
    "profile": "profiling",
    "RECIPES": "recipe",
    "Recipe": "recipe",
    "Calibration": "sampling",
    "MixBudget": "mixing",
    "Mixed": "mixing",
    "mix": "mixing",
    "Verification": "verification",
    "compare": "verification",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
