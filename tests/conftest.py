"""Shared data, options and subprocess calls for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.fixture(scope="session")
def shared_file():
    """Path of a file in the shared data folder; skips, naming the file, where it is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"no '{name}' in {DATA}; set KERAS_QCQP_DATA")
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
