"""Linter, formatter and type checker run as part of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy"])
def test_tool_is_content(tool):
    process = subprocess.run(
        [sys.executable, "-m", *tool.split()], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, f"{tool}:\n{process.stdout}{process.stderr}"
