"""Results are written whole or not at all: a failure at any call, folders that vanish, drafts of killed runs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_bgstat import Background, Config, estimate
from gpu_bgstat.cli import main
from gpu_bgstat.errors import OutputError
from gpu_bgstat.outputs import OUTPUTS, drafts

STEPS = [(os, "fsync"), (os, "link"), (Path, "open"), (Path, "replace"), (Path, "touch")]


def made(level: int) -> Background:
    frames = np.random.default_rng(level).integers(0, 256, (9, 24, 32, 3), np.uint8)
    return estimate(frames, Config(every=1, device="cpu"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """From now on the `at`-th call to the system finds no room; gives how many there were."""
    count = 0

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: count


def test_a_failure_at_any_call_leaves_all_old_or_all_new(tmp_path: Path) -> None:
    """Before and between the renames: earlier files are put back, and no draft stays."""
    old, new = made(1), made(2)
    with pytest.MonkeyPatch.context() as patch:
        calls = failing(patch, 0)
        old.save(tmp_path / "count")
    assert calls() >= 4 * len(OUTPUTS)
    refused = 0
    for number in range(1, calls() + 1):
        folder = tmp_path / str(number)
        old.save(folder)
        before = contents(folder)
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, number)
            try:
                new.save(folder)
            except OutputError as error:
                assert "No space left on device" in str(error) and "another folder with -o" in str(error)
                assert contents(folder) == before
                refused += 1
                continue
        after = contents(folder)
        assert set(after) == set(OUTPUTS)
        assert all(after[name] != before[name] for name in ("background_est.png", "variance.npy", "report.json"))
    assert refused > 2 * len(OUTPUTS)


def test_a_folder_that_vanishes_is_made_anew(film: Path, tmp_path: Path) -> None:
    """Hours of decoding are not thrown away for it."""
    folder = tmp_path / "out"
    folder.mkdir()
    background = estimate(film, Config(every=9, device="cpu"))
    shutil.rmtree(folder)
    assert {path.name for path in background.save(folder)} == set(OUTPUTS)


def test_a_folder_that_becomes_a_file_keeps_the_checkpoint(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, kept = tmp_path / "out", tmp_path / "kept"
    real = Background.save

    def sabotaged(background: Background, where: Any) -> Any:
        folder.rmdir()
        folder.write_text("somebody else's")
        return real(background, where)

    monkeypatch.setattr(Background, "save", sabotaged)
    asked = ["estimate", str(film), "--every", "9", "-o", str(folder), "--checkpoint", str(kept)]
    assert main(asked) == 1
    assert f"{folder} cannot be written to ({folder} is a file)" in capfd.readouterr().err
    assert folder.read_text() == "somebody else's" and (kept / "journal").exists()
    monkeypatch.undo()
    folder.unlink()
    assert main(asked) == 0 and not kept.exists()
    assert "resumed: 10 of 10 samples" in capfd.readouterr().err


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    made(1).save(tmp_path / "link")
    assert set(contents(tmp_path / "real")) == set(OUTPUTS)


def test_drafts_of_killed_runs_are_swept(tmp_path: Path) -> None:
    """Those of processes that live stay."""
    with subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE) as gone:
        gone.communicate()
    dead, alive = (
        tmp_path / drafts.draft_of(tmp_path / "variance.npy").name.replace(f".{os.getpid()}.", f".{process}.")
        for process in (gone.pid, os.getppid())
    )
    for draft in (dead, alive):
        draft.write_bytes(b"half")
    made(1).save(tmp_path)
    assert not dead.exists() and alive.read_bytes() == b"half"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    folder, results = tmp_path / "out", made(2)
    made(1).save(folder)
    before = contents(folder)
    for part in (folder, *folder.parents):
        if part.parent != part and part.stat().st_uid == 0:
            part.chmod(part.stat().st_mode | 0o555)
    os.seteuid(65_534)
    try:
        with pytest.raises(OutputError, match=r"out cannot be written to \(Permission denied\): give another folder"):
            results.save(folder)
    finally:
        os.seteuid(0)
    assert contents(folder) == before
