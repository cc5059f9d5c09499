"""The same recording and settings give the same bytes in every output: any cores, any decoders, CPU or GPU, any day."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import recording

from gpu_bgstat.arena import Arena
from gpu_bgstat.outputs import OUTPUTS

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def estimated(source: Path, folder: Path, *options: str, cores: int | None = None) -> dict[str, bytes]:
    """The outputs of the real command, without what stands under `run`; an earlier run's are overwritten."""
    done = subprocess.run(
        [sys.executable, "-m", "gpu_bgstat", "estimate", source, "-o", folder, "--quiet", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=(lambda: os.sched_setaffinity(0, CORES[:cores])) if cores else None,
    )
    assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == set(OUTPUTS)
    report = json.loads(files["report.json"])
    assert report.pop("run").keys() == {"device", "config", "decoding", "notes", "timings_s", "versions", "files"}
    files["report.json"] = json.dumps(report).encode()  # in the order it has
    files["report.html"], found = re.subn(rb'<div id="run">.*?</div>', b"", files["report.html"], flags=re.DOTALL)
    assert found == 1
    return files


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return [name for name in one if one[name] != other[name]]


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 frames with B-frames, and broken bytes at three places: decoded by plan."""
    return harmed_film(tmp_path_factory.mktemp("harmed") / "arena.mkv")


def harmed_film(path: Path) -> Path:
    Arena(width=160, height=120, animals=2).film(path, 300)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(4)
    for place in (0.3, 0.5, 0.8):
        at = int(place * len(data))
        data[at : at + 40] = rng.bytes(40)
    path.write_bytes(data)
    return path


def decoding(folder: Path) -> str:
    return str(json.loads((folder / "report.json").read_text())["run"]["decoding"]["way"])


WAYS: dict[str, tuple[list[str], int | None]] = {
    "again": ([], None),
    "one decoder": (["--decoders", "1"], None),
    "two decoders": (["--decoders", "2"], None),
    "three decoders": (["--decoders", "3"], None),
    "one core": ([], 1),
    "one core, three decoders": (["--decoders", "3"], 1),
}


def compare(source: Path, folder: Path, *options: str) -> None:
    want = estimated(source, folder, "--device", "cpu", *options)
    for way, (more, cores) in WAYS.items():
        if cores and not CORES:
            continue
        got = estimated(source, folder, "--device", "cpu", *options, *more, cores=cores)
        assert not differing(want, got), f"{way}: {differing(want, got)}"


@pytest.mark.recordings
@pytest.mark.parametrize("name", ["animals/dlc_openfield_m3v1mp4.mp4", "codec/decord_corrupted.mp4"])
def test_a_real_recording(name: str, tmp_path: Path) -> None:
    compare(recording(name), tmp_path, "--every", "40" if "animals" in name else "3")


def test_samples_in_any_order(film: Path, tmp_path: Path) -> None:
    """Few keyframes, more samples than are kept."""
    compare(film, tmp_path, "--every", "2", "--max-samples", "20")


def test_a_harmed_film(harmed: Path, tmp_path: Path) -> None:
    """The same frames are lost, and the warnings say so in the same words."""
    compare(harmed, tmp_path, "--every", "3")
    assert decoding(tmp_path) == "planned"
    assert json.loads((tmp_path / "report.json").read_text())["warnings"]


def test_a_harmed_film_from_the_beginning(tmp_path: Path) -> None:
    """Without an index that can be trusted; several threads find the damage, and one decodes it."""
    path = harmed_film(tmp_path / "arena.avi")
    compare(path, tmp_path / "out", "--every", "3")
    assert decoding(tmp_path / "out") == "sequential"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]


def test_files_of_another_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    np.save(tmp_path / "stack.npy", rng.integers(0, 65536, (40, 33, 47), dtype=np.uint16))
    compare(tmp_path / "stack.npy", tmp_path / "out", "--every", "1")


def test_joined_parts(film: Path, harmed: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copy(harmed, parts / "1.mkv")
    shutil.copy(harmed, parts / "2.mkv")
    compare(parts / "1.mkv", tmp_path / "out", str(parts / "2.mkv"), "--every", "5")


@pytest.mark.gpu
@pytest.mark.parametrize("options", [["--every", "4"], ["--every", "3", "--gray"], ["--every", "9", "--depth", "16"]])
def test_a_gpu_gives_the_same_bytes(film: Path, tmp_path: Path, options: list[str]) -> None:
    want = estimated(film, tmp_path, "--device", "cpu", *options)
    for more in ([], ["--decoders", "1"]):
        assert not differing(want, estimated(film, tmp_path, "--device", "gpu", *options, *more))


def test_the_sums_tell_new_files_from_old(film: Path, tmp_path: Path) -> None:
    """As docs/command.md says, with the tools of a shell."""
    estimated(film, tmp_path, "--every", "9")
    if not shutil.which("sha256sum"):
        pytest.skip("there is no sha256sum(1)")
    report = json.loads((tmp_path / "report.json").read_text())
    sums = {**report["files"], **report["run"]["files"]}
    assert set(sums) == set(OUTPUTS) - {"report.json"}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())

    def verdict() -> int:
        return subprocess.run(
            ["sha256sum", "-c", "--quiet"], input=lines, text=True, cwd=tmp_path, check=False, capture_output=True
        ).returncode

    assert verdict() == 0
    (tmp_path / "stable_mask.png").write_bytes(b"of an earlier run")
    assert verdict() == 1
