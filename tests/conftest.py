"""Fixtures that every test file shares: where the real recordings are, and small films made once."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from gpu_bgstat.arena import Arena
from gpu_bgstat.backends.cuda import cupy, driver_free_bytes, visible
from gpu_bgstat.errors import DeviceError

cv2.setNumThreads(2)

RECORDINGS = Path(os.environ.get("BGSTAT_RECORDINGS", Path(__file__).resolve().parents[2] / "shared" / "recordings"))
STANDIN = "CUDA_STANDIN_HOME" in os.environ
MODULES_BYTES = 1 << 16  # what CuPy's own operations keep, once compiled; less than any store has
only_standin = pytest.mark.skipif(not STANDIN, reason="reads the CUDA stand-in's log, or makes it fail")
MISSING = f"the real recordings are not at {RECORDINGS}: set BGSTAT_RECORDINGS"


def pytest_configure(config: pytest.Config) -> None:
    """The gate must not pass by skipping: with CI=true the recordings have to be there."""
    if os.environ.get("CI") == "true" and not (RECORDINGS / "animals").is_dir():
        raise pytest.UsageError(MISSING)


@functools.cache
def without_gpu() -> str:
    """Why there is no CUDA device here; empty if there is one."""
    try:
        visible()
    except DeviceError as error:
        return f"needs a CUDA device or the stand-in: {error}"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the GPU skip without one, and fail instead if BGSTAT_REQUIRE_GPU=1."""
    if item.get_closest_marker("gpu") and (reason := without_gpu()):
        if os.environ.get("BGSTAT_REQUIRE_GPU") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """One test body, run on both backends."""
    return str(request.param)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def stop(request: pytest.FixtureRequest) -> signal.Signals:
    """What stops the command: Ctrl-C, and what schedulers send."""
    return signal.Signals(request.param)


@pytest.fixture
def memory_comes_back() -> Iterator[None]:
    """Whatever a test does, afterwards each device has as much free memory as before."""
    before = [driver_free_bytes(device.index) for device in sorted(visible(), key=lambda device: device.index)]
    yield
    after = [driver_free_bytes(device.index) for device in sorted(visible(), key=lambda device: device.index)]
    if STANDIN:  # elsewhere, other processes come and go
        held = cupy().get_default_memory_pool().total_bytes()
        for index, (free, now) in enumerate(zip(before, after, strict=True)):
            assert now + (held if index == 0 else 0) + MODULES_BYTES >= free


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB in memory; root alone can make one."""
    yield from _disk(tmp_path / "disk", "64k")


@pytest.fixture
def megabyte_disk(tmp_path: Path) -> Iterator[Path]:
    """One of 1 MiB."""
    yield from _disk(tmp_path / "disk", "1m")


def _disk(disk: Path, size: str) -> Iterator[Path]:
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
