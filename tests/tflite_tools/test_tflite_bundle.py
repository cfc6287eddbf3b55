"""The deploy bundle: complete, checked, runnable, and there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tflite_tools
from keras_qcqp import prune
from tflite_tools import BundleOptions, OutputFileError
from tflite_tools.bundle_files import c_source

OPTIONS = BundleOptions(labels=("a", "b", "c", "d", "e"), input_range=(-1, 1), preprocessing="x / 127.5 - 1")


@pytest.fixture(scope="module")
def bundle(small_cnn, images, tmp_path_factory):
    result = prune(small_cnn, {"macs": 0.7}, time_limit_s=1)
    return tflite_tools.export(
        result, tmp_path_factory.mktemp("out") / "bundle", ("int8", "float32"), images, options=OPTIONS
    )


def test_all_files_are_there_and_sums_are_right(bundle):
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {p.name for p in bundle.iterdir()} - {"SHA256SUMS"}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    wanted = "int8.tflite float32.tflite int8_model.cc int8_model.h report.txt report.json labels.txt example.py"
    assert set(wanted.split()) < {p.name for p in bundle.iterdir()}
    assert "macs [MAC]" in (bundle / "report.txt").read_text()


def test_metadata_tells_how_to_use_the_files(bundle):
    data = json.loads((bundle / "metadata.json").read_text())
    row = data["files"]["int8.tflite"]
    facts = tflite_tools.read_facts(bundle / "int8.tflite")
    assert data["labels"] == list("abcde") and data["input_range"] == [-1, 1]
    assert row["size_bytes"] == facts.size_bytes and row["arena_bytes"] == facts.arena_bytes
    low, high = row["inputs"][0]["real_range"]
    assert low == pytest.approx(-1, abs=0.02) and high == pytest.approx(1, abs=0.02)


def test_the_example_runs(bundle, run_python, images, tmp_path):
    process = run_python(bundle / "example.py")
    assert process.returncode == 0 and re.search(r"output_0 \[1, 5\] .*\nclass: [a-e]\n", process.stdout), process
    np.save(tmp_path / "x.npy", images[0])
    process = run_python(bundle / "example.py", tmp_path / "x.npy")
    expected = tflite_tools.predict(bundle / "int8.tflite", images[:1])["output_0"]
    assert f"class: {'abcde'[int(expected.argmax())]}" in process.stdout


def test_the_c_array_is_the_file(bundle, tmp_path):
    source = (bundle / "int8_model.cc").read_text()
    found = bytes(int(x, 16) for x in re.findall(r"0x([0-9a-f]{2}),", source))
    assert found == (bundle / "int8.tflite").read_bytes()
    if not (compiler := shutil.which("c++")):
        pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++17", "-c", str(bundle / "int8_model.cc"), "-o", str(tmp_path / "model.o")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert "g_my_net_model[]" in c_source("my-net", b"abc", 64)[0]


def test_a_folder_is_replaced_only_when_asked_and_only_one_of_ours(bundle, small_cnn, tmp_path):
    folder = tflite_tools.export(small_cnn, tmp_path / "b", ("float32",), files={"extra": _any(bundle)})
    assert (folder / "extra.tflite").exists() and not (folder / "report.txt").exists()
    with pytest.raises(OutputFileError, match="exists already. Give another folder, or overwrite=True."):
        tflite_tools.export(small_cnn, folder)
    tflite_tools.export(small_cnn, folder, ("float32",), overwrite=True)
    assert not (folder / "extra.tflite").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputFileError, match="is no folder that was exported here"):
        tflite_tools.export(small_cnn, tmp_path / "mine", overwrite=True)
    with pytest.raises(OutputFileError, match="Cannot write into"):
        tflite_tools.export(small_cnn, tmp_path / "no" / "where")
    with pytest.raises(OutputFileError, match="nothing to export"):
        tflite_tools.export(small_cnn, tmp_path / "c", ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


def test_a_failure_leaves_nothing_behind(small_cnn, tmp_path, monkeypatch):
    folder = tflite_tools.export(small_cnn, tmp_path / "b", ("float32",))
    before = (folder / "SHA256SUMS").read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputFileError, match="No space left on device. Nothing was changed."):
        tflite_tools.export(small_cnn, folder, ("float32",), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["b"] and (folder / "SHA256SUMS").read_bytes() == before


def test_an_interrupt_between_the_renames_keeps_the_old_folder(small_cnn, tmp_path, monkeypatch):
    folder = tflite_tools.export(small_cnn, tmp_path / "b", ("float32",))
    before = (folder / "SHA256SUMS").read_bytes()
    rename = Path.rename

    def interrupted(self, target):
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tflite_tools.export(small_cnn, folder, ("float32",), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["b"] and (folder / "SHA256SUMS").read_bytes() == before


def test_what_appears_during_conversion_is_not_replaced(bundle, small_cnn, tmp_path, monkeypatch):
    def slow(*_):
        (tmp_path / "b").mkdir()
        return _any(bundle)

    monkeypatch.setattr("tflite_tools.conversion.convert", slow)
    with pytest.raises(OutputFileError, match="exists already"):
        tflite_tools.export(small_cnn, tmp_path / "b", ("float32",))
    (tmp_path / "b").rmdir()
    with pytest.raises(OutputFileError, match="is no folder that was exported here"):
        tflite_tools.export(small_cnn, tmp_path / "b", ("float32",), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_names_labels_and_the_recipes_without_data(bundle, small_cnn, tmp_path):
    for name, message in (("float32", "Two files would be 'float32.tflite'"), ("a/b", "no name of"), ("", "no name")):
        with pytest.raises(OutputFileError, match=message):
            tflite_tools.export(small_cnn, tmp_path / "b", ("float32",), files={name: _any(bundle)})
    with pytest.raises(OutputFileError, match=r"There are 2 labels, but 'extra' has outputs of size \[5\]"):
        tflite_tools.export(
            small_cnn, tmp_path / "b", (), files={"extra": _any(bundle)}, options=BundleOptions(labels=("a", "b"))
        )
    folder = tflite_tools.export(small_cnn, tmp_path / "b")
    assert {p.name for p in folder.glob("*.tflite")} == {"float32.tflite", "dynamic_int8.tflite"}


def _any(bundle):
    return (bundle / "int8.tflite").read_bytes()
