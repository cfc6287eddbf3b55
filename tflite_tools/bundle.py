"""Everything a device needs, in one folder that is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.bundle_files import c_source, example_script
from tflite_tools.errors import OutputFileError
from tflite_tools.flatbuffer import TensorFacts, TfliteFacts, read_facts
from tflite_tools.recipe import get_recipe

_FORMAT = 1


@dataclass(frozen=True)
class BundleOptions:
    """What else belongs to a network.

    Attributes:
        labels: names of the classes, in the order of the output.
        input_range: (least, greatest) value of a preprocessed input.
        preprocessing: the model's own, in words: for people.
        c_array: also write each int8 file as C source, for microcontrollers.
    """

    labels: Sequence[str] = ()
    input_range: tuple[float, float] | None = None
    preprocessing: str = ""
    c_array: bool = True


def export(
    result: Any,
    out_dir: str | os.PathLike[str],
    recipes: Sequence[str] | None = None,
    representative_data: Any = None,
    *,
    options: BundleOptions | None = None,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts by every recipe and writes the folder: files, metadata.json, report, C source, example, checksums.

    Args:
        result: a Keras model, or what `keras_qcqp.prune` returned, whose report goes along.
        out_dir: the folder; it appears in one step, when all is written.
        recipes: names in `RECIPES`; each makes `<recipe>.tflite`. If None float32 and, with representative data, int8,
            without dynamic_int8.
        representative_data: as for `convert`, for recipes that need it.
        options: `BundleOptions()` if None.
        files: more `.tflite` files by name, such as that of `qat`; none the name of a recipe.
        overwrite: replace the folder if it is there.

    Returns:
        The folder.

    Raises:
        OutputFileError: it exists, or cannot be written; a name that is taken or no name; labels that do not fit the
            outputs. Nothing is left behind then.
        RecipeError, RepresentativeDataError, ConversionError: as for `convert`.
    """
    target = _free(out_dir, overwrite)
    if recipes is None:
        recipes = ("float32", "dynamic_int8" if representative_data is None else "int8")
    contents = dict(files or {})
    _require_names(contents, [get_recipe(recipe).name for recipe in recipes])
    for recipe in recipes:
        from tflite_tools.conversion import convert

        contents[get_recipe(recipe).name] = convert(result, recipe, representative_data)
    return _write(target, _texts(result, contents, options or BundleOptions()), contents, overwrite)


def _require_names(files: Mapping[str, bytes], recipes: Sequence[str]) -> None:
    if not files and not recipes:
        raise OutputFileError("There is nothing to export: give recipes, or files.")
    taken = next((name for name in [*recipes, *files] if [*recipes, *files].count(name) > 1), None)
    if taken is not None:
        raise OutputFileError(f"Two files would be '{taken}.tflite'. Call the one in files= something else.")
    for name in files:
        if not name or name.startswith(".") or not {"/", "\\", "\0"}.isdisjoint(name):
            raise OutputFileError(f"'{name}' in files= is no name of a file: give one without folder and ending.")


def _free(out_dir: str | os.PathLike[str], overwrite: bool) -> Path:
    target = Path(os.path.realpath(out_dir))
    if target.exists() and not overwrite:
        raise OutputFileError(f"'{out_dir}' exists already. Give another folder, or overwrite=True.")
    if target.exists() and not (target / "metadata.json").is_file():
        raise OutputFileError(f"'{out_dir}' is no folder that was exported here, so it is not replaced.")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise OutputFileError(f"Cannot write into '{target.parent}'. Create it, or give another folder.")
    return target


def _texts(result: Any, contents: Mapping[str, bytes], options: BundleOptions) -> dict[str, str]:
    facts = {name: read_facts(data) for name, data in contents.items()}
    for name, row in facts.items():
        sizes = [tensor.shape[-1] for tensor in row.outputs if tensor.shape]
        if options.labels and len(options.labels) not in sizes:
            raise OutputFileError(f"There are {len(options.labels)} labels, but '{name}' has outputs of size {sizes}.")
    texts = {
        "metadata.json": json.dumps(_metadata(contents, facts, options), indent=1),
        "example.py": example_script(f"{next(iter(contents))}.tflite"),
    }
    report = getattr(result, "report", None)
    if report is not None:
        texts["report.txt"] = f"{report}\n"
        texts["report.json"] = report.to_json()
    if options.labels:
        texts["labels.txt"] = "".join(f"{label}\n" for label in options.labels)
    for name, data in contents.items():
        if options.c_array and facts[name].has_int8_activations:
            header, source = c_source(name, data, facts[name].arena_bytes)
            texts |= {f"{name}_model.h": header, f"{name}_model.cc": source}
    return texts


def _metadata(
    contents: Mapping[str, bytes], facts: Mapping[str, TfliteFacts], options: BundleOptions
) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "labels": list(options.labels),
        "input_range": list(options.input_range) if options.input_range else None,
        "preprocessing": options.preprocessing,
        "files": {
            f"{name}.tflite": {
                "size_bytes": len(data),
                "arena_bytes": facts[name].arena_bytes,
                "sha256": hashlib.sha256(data).hexdigest(),
                "operators": dict(facts[name].op_counts),
                "inputs": [_tensor(t) for t in facts[name].inputs],
                "outputs": [_tensor(t) for t in facts[name].outputs],
            }
            for name, data in contents.items()
        },
    }


def _tensor(tensor: TensorFacts) -> dict[str, Any]:
    found = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}
    if tensor.scale is None or tensor.zero_point is None:
        return found
    limits = np.iinfo(tensor.dtype)
    ends = [(int(end) - tensor.zero_point) * tensor.scale for end in (limits.min, limits.max)]
    return {**found, "scale": tensor.scale, "zero_point": tensor.zero_point, "real_range": ends}


def _write(target: Path, texts: Mapping[str, str], contents: Mapping[str, bytes], overwrite: bool) -> Path:
    everything = {name: text.encode("utf-8") for name, text in texts.items()}
    everything |= {f"{name}.tflite": data for name, data in contents.items()}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(everything.items()))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
    old = target.with_name(f".{target.name}.{secrets.token_hex(6)}.old")
    try:
        partial.mkdir()
        for name, data in {**everything, "SHA256SUMS": sums.encode()}.items():
            (partial / name).write_bytes(data)
        if _free(target, overwrite).exists():  # asked again: converting took a while
            target.rename(old)
        partial.rename(target)
    except OutputFileError:
        raise
    except OSError as error:
        raise OutputFileError(f"Cannot write '{target}': {error.strerror or error}. Nothing was changed.") from error
    finally:
        # Also when interrupted between the two renames: whatever happens, one of the two folders is there.
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target
