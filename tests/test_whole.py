"""Whole or nothing: whatever fails while outputs are written, the earlier ones stay to the byte, without any draft."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bad_input import tree
from test_command import MODULE, Child, feed

from gpu_bgstat import Background, Config, estimate
from gpu_bgstat.errors import OutputError
from gpu_bgstat.outputs import OUTPUTS, drafts, save

OTHERS = {"truth.png": b"given as bytes"}


def background(seed: int) -> Background:
    return estimate(np.random.default_rng(seed).integers(0, 256, (5, 24, 32, 3), np.uint8), Config(every=1))


@pytest.fixture(scope="module")
def later() -> Background:
    return background(2)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    save(background(1), folder, OTHERS)
    (folder / "notes.txt").write_text("the user's own")
    return folder


def refused(got: Background, folder: Path) -> str:
    """The one line of the error; nothing has changed in the folder."""
    before = tree(folder)
    with pytest.raises(OutputError) as caught:
        save(got, folder, OTHERS)
    line = str(caught.value)
    assert str(folder) in line and "\n" not in line
    assert tree(folder) == before, line
    return line


def report_is_of(folder: Path, name: str) -> bool:
    """Whether the report beside it knows this file."""
    report = json.loads((folder / "report.json").read_text())
    known = {**report["files"], **report["run"]["files"]}
    return bool(known[name] == sha256((folder / name).read_bytes()).hexdigest())


# --- the system refuses --------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_any_place(small_disk: Path, later: Background) -> None:
    """Real: a file system of 64 KiB with less and less room, down to none."""
    save(background(1), small_disk, OTHERS)
    fails = 0
    for filled in range(0, 65536, 4096):
        ballast = small_disk / "ballast"
        try:
            ballast.write_bytes(bytes(filled))
        except OSError:
            break
        if filled and fails == 0:
            before = tree(small_disk)
            try:
                save(later, small_disk, OTHERS)
                continue
            except OutputError:
                assert tree(small_disk) == before
        if filled:
            line = refused(later, small_disk)
            assert "No space left on device" in line and "make room there" in line
            fails += 1
    assert fails >= 3


@pytest.mark.parametrize("room", range(len(OUTPUTS) + len(OTHERS)))
def test_a_disk_without_room_for_another_name(small_disk: Path, later: Background, room: int) -> None:
    """Real: no inodes are left after so many drafts."""
    save(background(1), small_disk, OTHERS)
    used = 1 + len(OUTPUTS) + len(OTHERS)
    subprocess.run(["mount", "-o", f"remount,nr_inodes={used + room}", small_disk], check=True)
    assert "No space left on device" in refused(later, small_disk)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_at_any_size_of_a_file(earlier: Path, later: Background) -> None:
    """Real, as a quota is: each file meets it, one after another, at its start, in it, and one byte before its end."""
    sizes = {path.stat().st_size for path in earlier.iterdir()}
    largest = max(sizes)
    for size in sorted({0, 1, *sizes, *(size - 1 for size in sizes)}):
        if size < largest - 500:  # the two estimates' files differ a little in size
            with largest_file(size):
                assert "File too large" in refused(later, earlier)


CALLS = {"fsync": len(OUTPUTS) + len(OTHERS), "replace": len(OUTPUTS) + len(OTHERS)}


@pytest.mark.parametrize(("name", "turn"), [(name, turn) for name, count in CALLS.items() for turn in range(count)])
def test_every_call_may_fail(
    name: str, turn: int, earlier: Path, later: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that reports the loss of data only when it is asked to keep it, and one that dies between two renames."""
    fail_once(name, turn, monkeypatch)
    assert "Input/output error" in refused(later, earlier)


def fail_once(name: str, turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = getattr(os, name)
    calls = 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == turn + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("turn", range(len(OUTPUTS)))
def test_a_rename_that_fails_in_a_new_folder(
    turn: int, tmp_path: Path, later: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is gone again, with the files that were renamed by then."""
    fail_once("replace", turn, monkeypatch)
    with pytest.raises(OutputError, match="Input/output error"):
        save(later, tmp_path / "new" / "out")
    assert tree(tmp_path) == {}


def test_without_hard_links_the_message_says_what_is_new(
    earlier: Path, later: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT. The report is renamed last, so it tells which files are not its own."""

    def unsupported(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    unsupported_link = unsupported
    monkeypatch.setattr(os, "supports_follow_symlinks", {unsupported_link})
    monkeypatch.setattr(os, "link", unsupported_link)
    fail_once("replace", 3, monkeypatch)
    with pytest.raises(OutputError, match=r"already new: background_var\.png, background_est\.png, truth\.png"):
        save(later, earlier, OTHERS)
    assert [name for name in OUTPUTS if name != "report.json" and not report_is_of(earlier, name)] == [
        "background_est.png",
        "background_var.png",
    ]
    assert not list(earlier.glob(".*"))


def test_a_folder_that_can_only_be_written_through_a_link(tmp_path: Path, later: Background) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save(later, tmp_path / "link")
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == sorted(OUTPUTS)
    assert (tmp_path / "link").is_symlink()


def test_a_link_that_leads_nowhere(tmp_path: Path, later: Background) -> None:
    for target in ("missing", "link"):  # the second one leads to itself
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(
            OutputError, match=r"link cannot be written to \(.*link is a link that leads nowhere\): give"
        ):
            save(later, tmp_path / "link")


def test_an_output_that_was_a_link_is_replaced_and_its_target_is_not(tmp_path: Path, later: Background) -> None:
    (tmp_path / "kept").write_bytes(b"elsewhere")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "report.json").symlink_to(tmp_path / "kept")
    save(later, folder)
    assert (tmp_path / "kept").read_bytes() == b"elsewhere" and not (folder / "report.json").is_symlink()


# --- the folder changes while the estimate runs ----------------------------------------------------------------------


def running(folder: Path) -> tuple[Child, int]:
    """The command, which has made the folder and waits for frames; where to write them."""
    reading, writing = os.pipe()
    child = Child(["estimate", "-", "--size", "9x9", "--pix", "gray", "--every", "1", "-o", folder], stdin=reading)
    os.close(reading)
    while not folder.is_dir() or list(folder.glob(".*")):
        assert child.process.poll() is None
    return child, writing


def finish(child: Child, writing: int) -> tuple[int, str]:
    feed(writing, bytes(range(81)), 810)
    os.close(writing)
    code = child.end()
    said = [line for line in child.told.decode().splitlines() if not line.startswith("device: ")]
    assert "Traceback" not in child.told.decode()
    return code, said[-1] if said else ""


def test_a_folder_that_vanishes_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    child, writing = running(tmp_path / "new" / "out")
    (tmp_path / "new" / "out").rmdir()
    (tmp_path / "new").rmdir()
    code, line = finish(child, writing)
    assert code == 1 and f"{tmp_path / 'new' / 'out'} vanished while the recording was read" in line
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted(OUTPUTS)


def test_a_folder_that_becomes_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    child, writing = running(folder)
    folder.rmdir()
    folder.write_bytes(b"a file")
    code, line = finish(child, writing)
    assert code == 1 and f"{folder} cannot be written to ({folder} is a file): give a folder with -o" in line
    assert tree(tmp_path) == {"out": b"a file"}


def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    folder = small_disk / "out"
    folder.mkdir()
    (folder / "report.json").write_bytes(b"earlier")
    child, writing = running(folder)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, line = finish(child, writing)
    assert code == 1 and f"{folder} cannot be written to (Read-only file system): give another folder" in line
    assert tree(folder) == {"report.json": b"earlier"}


def test_a_folder_without_permission(earlier: Path) -> None:
    """Permissions do not bind root, so the estimate is saved by nobody."""
    if os.geteuid():
        pytest.skip("only root can become nobody")
    for part in (earlier, *earlier.parents):
        if part.stat().st_uid == 0 and "pytest" in str(part):
            part.chmod(0o755)
    before = tree(earlier)
    text = (
        "import os, sys, numpy as np\nfrom pathlib import Path\nfrom gpu_bgstat import estimate, Config, BgstatError\n"
        "from gpu_bgstat.outputs import save\n"
        "got = estimate(np.zeros((3, 8, 8), np.uint8), Config(every=1))\nos.setuid(65534)\n"
        "try:\n    save(got, Path(sys.argv[1]))\nexcept BgstatError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, earlier], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == f"{earlier} cannot be written to (Permission denied): give another folder with -o\n"
    assert tree(earlier) == before


# --- killed -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from gpu_bgstat import estimate, Config
from gpu_bgstat.outputs import save
got = estimate(np.random.default_rng(2).integers(0, 256, (5, 24, 32, 3), np.uint8), Config(every=1))
name, turns = sys.argv[2], int(sys.argv[3])
real = getattr(os, name)
def counted(*arguments, **options):
    global turns
    turns -= 1
    if turns < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
setattr(os, name, counted)
save(got, Path(sys.argv[1]), {"truth.png": b"given as bytes"})
"""


@pytest.mark.parametrize(("name", "turn"), [("fsync", 0), ("fsync", 4), ("replace", 0), ("replace", 3), ("replace", 6)])
def test_after_kill_9(name: str, turn: int, earlier: Path, later: Background, tmp_path: Path) -> None:
    """Every output is whole, old or new; the report tells which are not its own; the next run clears the rest away."""
    before = tree(earlier)
    save(later, tmp_path / "whole", OTHERS)
    after = tree(tmp_path / "whole")
    done = subprocess.run([sys.executable, "-c", KILLED, earlier, name, str(turn)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    names = [name for name in (*OTHERS, *OUTPUTS) if name not in ("report.json", "report.html")]
    new = names[:turn] if name == "replace" else []
    for other in names:
        assert (earlier / other).read_bytes() == (after if other in new else before)[other]
        assert report_is_of(earlier, other) == (other not in new or after[other] == before[other])
    assert list(earlier.glob(".*.part*"))
    save(later, earlier, OTHERS)
    assert not list(earlier.glob(".*"))
    assert all(report_is_of(earlier, other) for other in names)


def test_drafts_of_others_are_left_alone(earlier: Path, later: Background) -> None:
    """Of a process that lives, of another host, of files that are none of ours; but not a day-old one."""
    host = drafts.draft_of(earlier / "x").name.split(".")[2]
    kept = [
        f".report.json.{host}.{os.getppid()}.part",
        ".report.json.another-host.1.part",
        f".diary.txt.{host}.{2**22 + 1}.part",
        ".report.json.part",
    ]
    gone = [f".report.json.{host}.{2**22 + 1}.part", f".variance.npy.{host}.{10**30}.part.old"]
    old = ".report.html.another-host.1.part"
    for name in (*kept, *gone, old):
        (earlier / name).write_bytes(b"draft")
    os.utime(earlier / old, (0, 0))
    save(later, earlier, OTHERS)
    assert sorted(path.name for path in earlier.glob(".*")) == sorted(kept)


def test_the_command_prints_the_report_that_it_saved(film: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*MODULE, "estimate", film, "--every", "9", "-o", tmp_path, "--json", "--quiet"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == (tmp_path / "report.json").read_bytes()
    assert all(report_is_of(tmp_path, name) for name in OUTPUTS if name != "report.json")
