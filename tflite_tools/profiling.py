"""Measures `.tflite` models on a device and joins the times with the facts of the files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import overload

from tflite_tools.devices import Device, TimingOptions, get_device
from tflite_tools.errors import ProfileError
from tflite_tools.flatbuffer import TfliteSource, read_bytes, read_facts
from tflite_tools.profiles import Comparison, Profile


@overload
def profile(models: TfliteSource, device: str | Device = "host", options: TimingOptions | None = None) -> Profile: ...


@overload
def profile(
    models: Mapping[str, TfliteSource], device: str | Device = "host", options: TimingOptions | None = None
) -> dict[str, Profile]: ...


def profile(
    models: TfliteSource | Mapping[str, TfliteSource],
    device: str | Device = "host",
    options: TimingOptions | None = None,
) -> Profile | dict[str, Profile]:
    """Measures one model, or several that take turns so that their times may be compared.

    Args:
        models: a `.tflite` as path or bytes, or a mapping of names to such.
        device: a name in `devices.DEVICES` or an object with the methods of `Device`.
        options: how long to measure; `TimingOptions()` if None.

    Returns:
        One `Profile`, named after the file ("model" for bytes), or one per name.

    Raises:
        TfliteFileError: a file is missing, damaged or no TFLite model.
        DeviceError: unknown device, or a model does not run on it.
        ProfileError: nothing to measure.
    """
    if not isinstance(models, Mapping):
        name = Path(models).stem if isinstance(models, (str, os.PathLike)) else "model"
        return _measure({name: models}, device, options)[name]
    if not models:
        raise ProfileError("There is nothing to measure: the mapping of models is empty. Give at least one.")
    return _measure(models, device, options)


def compare_latency(
    before: TfliteSource,
    after: TfliteSource,
    device: str | Device = "host",
    options: TimingOptions | None = None,
) -> Comparison:
    """Measures two models in one interleaved session; print the result for a table with ratios.

    Stored profiles are not accepted: the machine is never in the same state twice.

    Raises:
        ProfileError: a `Profile` was given instead of a model.
        TfliteFileError, DeviceError: as in `profile`.
    """
    for value in (before, after):
        if isinstance(value, Profile):
            raise ProfileError(
                f"compare_latency() measures models, got the Profile '{value.name}'. Give its .tflite file."
            )
    results = _measure({"before": before, "after": after}, device, options)
    return Comparison(results["before"], results["after"])


def _measure(
    models: Mapping[str, TfliteSource], device: str | Device, options: TimingOptions | None
) -> dict[str, Profile]:
    chosen, options = get_device(device), options or TimingOptions()
    facts = {name: read_facts(source) for name, source in models.items()}  # a bad file fails before any timing
    timings = chosen.profile({name: read_bytes(source) for name, source in models.items()}, options)
    environment = chosen.environment()
    return {
        name: Profile(
            name=name,
            device=chosen.name,
            latency_ms=timing.latency_ms,
            median_ms=timing.median_ms,
            p10_ms=timing.p10_ms,
            p90_ms=timing.p90_ms,
            num_runs=timing.num_runs,
            num_threads=options.num_threads,
            size_bytes=facts[name].size_bytes,
            weight_bytes=facts[name].weight_bytes,
            op_counts=facts[name].op_counts,
            environment=environment,
            notes=(*chosen.notes(facts[name]), *timing.notes),
            delegate=timing.delegate,
            init_ms=timing.init_ms,
            first_ms=timing.first_ms,
            peak_memory_bytes=timing.peak_memory_bytes,
            ops=timing.ops,
            ops_source=timing.ops_source,
            counters=timing.counters,
        )
        for name, timing in timings.items()
    }
