"""Fixtures that every test file shares: where the real recordings are, and small films made once."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from gpu_bgstat.arena import Arena

cv2.setNumThreads(2)

RECORDINGS = Path(os.environ.get("BGSTAT_RECORDINGS", Path(__file__).resolve().parents[2] / "shared" / "recordings"))
MISSING = f"the real recordings are not at {RECORDINGS}: set BGSTAT_RECORDINGS"


def pytest_configure(config: pytest.Config) -> None:
    """The gate must not pass by skipping: with CI=true the recordings have to be there."""
    if os.environ.get("CI") == "true" and not (RECORDINGS / "animals").is_dir():
        raise pytest.UsageError(MISSING)


def recording(name: str) -> Path:
    """A real recording, or a skip with the reason."""
    if not (RECORDINGS / "animals").is_dir():
        pytest.skip(MISSING)
    path = RECORDINGS / name
    assert path.exists(), f"{path} is missing although {RECORDINGS} is there"
    return path


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 frames of a small arena, 96x72, 30 frames a second, H.264 with B-frames."""
    path = tmp_path_factory.mktemp("film") / "arena.mp4"
    Arena(width=96, height=72, animals=2).film(path, 90)
    return path
