"""Shared data, options and subprocess calls for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("KERAS_QCQP_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow evidence; run with --slow"))


def _release(version: str) -> tuple[int, ...]:
    """Files of a newer minor release may hold settings an older one does not know."""
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.fixture(scope="session")
def shared_file():
    """Path of a file in the shared data folder; skips, naming the file, where it is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"no '{name}' in {DATA}; set KERAS_QCQP_DATA")
        if path.suffix == ".keras":
            written_by = json.loads(zipfile.ZipFile(path).read("metadata.json"))["keras_version"]
            if _release(written_by) > _release(metadata.version("keras")):
                pytest.skip(f"'{name}' was written by Keras {written_by}, newer than the one installed")
        return path

    return find


@pytest.fixture(scope="session")
def run_python():
    """Runs Python with the repository importable and returns the finished process."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        merged = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=merged, timeout=300
        )

    return run
