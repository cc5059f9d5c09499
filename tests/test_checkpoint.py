"""Interrupted estimates that go on: after a kill at any moment, the result is that of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import Outcome, Run, in_turn, summary

from gpu_bgstat import Background, Config, checkpoint, estimate, journal
from gpu_bgstat.arena import Arena
from gpu_bgstat.checkpoint import Checkpoint
from gpu_bgstat.cli import main
from gpu_bgstat.coarse import CoarseView
from gpu_bgstat.errors import BgstatError, CheckpointError, ScratchError, SourceError
from gpu_bgstat.sources import open_source

EVERY = 4


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 90 frames in groups of 12, with two packets of zeros: frames are lost and others marked."""
    folder = tmp_path_factory.mktemp("mended")
    Arena(width=96, height=72, animals=2, noise=3.0).film(folder / "whole.mp4", 90, "mpeg4")
    data = bytearray((folder / "whole.mp4").read_bytes())
    with av.open(str(folder / "whole.mp4")) as container:
        table = [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]
    for number in (17, 40):
        begin, size = table[number]
        data[begin + (size // 2 if number == 40 else 0) : begin + size] = bytes(
            size - (size // 2 if number == 40 else 0)
        )
    (folder / "damaged.mp4").write_bytes(data)
    return folder / "damaged.mp4"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """24 images, one of them damaged."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(Arena(width=64, height=48).frames(24)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:300])
    return folder


def config(**others: Any) -> dict[str, Any]:
    return {"every": EVERY, "device": "cpu", **others}


def undisturbed(source: Any, settings_: dict[str, Any]) -> dict[str, Any]:
    """As the killed processes tell it."""
    told: dict[str, Any] = json.loads(json.dumps(summary(estimate(source, Config(**settings_)))))
    return told


def same(outcome: Outcome, want: dict[str, Any]) -> None:
    got = {name: value for name, value in outcome.result.items() if name in want}
    assert not outcome.killed and got == want


def sources(film: Path, mended: Path, pictures: Path) -> dict[str, Any]:
    return {"film": str(film), "damaged": str(mended), "joined": [str(mended), str(film)], "images": str(pictures)}


@pytest.mark.parametrize("kind", ["film", "damaged", "joined", "images"])
def test_killed_at_every_call_of_the_journal(
    kind: str, film: Path, mended: Path, pictures: Path, tmp_path: Path
) -> None:
    """Before each one, or after half of a write; then resumed, killed once more, and resumed to the end.

    Of the film at every call, of the others at every third one.
    """
    source = sources(film, mended, pictures)[kind]
    settings_ = config(every=EVERY if kind != "joined" else 12)
    want = undisturbed(source, settings_)
    (whole,) = in_turn([Run(source, settings_, str(tmp_path / "whole"))])
    same(whole, want)
    calls = len(whole.log)
    assert calls > 3 * len(want["samples"])
    rng = random.Random(kind)
    runs = []
    for number in range(1, calls + 1, 1 if kind == "film" else 3):
        here = str(tmp_path / f"at{number}")
        half = rng.random() < 0.5
        again = rng.randint(1, calls)
        runs += [
            Run(source, settings_, here, kill_at=number, half=half),
            Run(source, settings_, here, kill_at=again, half=not half),
            Run(source, settings_, here),
        ]
    outcomes = in_turn(runs)
    for first, second, last in zip(outcomes[::3], outcomes[1::3], outcomes[2::3], strict=True):
        assert first.killed
        same(last, want)
        if not second.killed:
            same(second, want)
    # what was told before the kill did not come again, unless its stretch of the film was not through
    assert min(outcome.result["came"] for outcome in outcomes[2::3]) == 0


def test_pixels_are_on_the_disk_before_the_journal_tells_of_them(film: Path, tmp_path: Path) -> None:
    (run,) = in_turn([Run(str(film), config(), str(tmp_path / "here"))])
    writes = [number for number, call in enumerate(run.log) if call == "write"]
    assert len(writes) > 20
    for number in writes[2:]:  # behind header and plan
        assert run.log[number + 1] == "sync journal"
        assert "sync samples" in run.log[number - 2 : number]


def test_killed_at_random_moments(film: Path, mended: Path, tmp_path: Path) -> None:
    """From outside, again and again, until a run comes through."""
    rng = random.Random(5)
    for source in (str(film), str(mended)):
        for decoders in (1, 3):
            settings_ = config(every=2, decoders=decoders)
            want = undisturbed(source, settings_)
            here = str(tmp_path / f"{Path(source).stem}-{decoders}")
            runs = [Run(source, settings_, here, after_s=rng.uniform(0.05, 0.4), slow_s=0.02) for _ in range(8)]
            outcomes = in_turn([*runs, Run(source, settings_, here)])
            assert any(outcome.killed for outcome in outcomes)
            same(outcomes[-1], want)


def test_interrupted_right_after_any_record(mended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come when the journal tells already what the run does not know yet that it tells."""
    film = mended.parent / "whole.mp4"
    want = estimate(film, Config(every=6, device="cpu"))
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "_COMMITS_SHARE", 0)
    append = journal.Journal.append
    for number in range(2, 14):
        left = [number]

        def interrupted_append(book: journal.Journal, record: dict[str, Any], left: list[int] = left) -> None:
            append(book, record)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(journal.Journal, "append", interrupted_append)
        with pytest.raises(KeyboardInterrupt):
            estimate(film, Config(every=6, device="cpu"), checkpoint=tmp_path / str(number))
        monkeypatch.setattr(journal.Journal, "append", append)
        got = estimate(film, Config(every=6, device="cpu"), checkpoint=tmp_path / str(number))
        np.testing.assert_array_equal(got.background, want.background)
        np.testing.assert_array_equal(got.variance, want.variance)
        assert got.samples == want.samples


def test_a_resumed_run_decodes_only_what_is_left(mended: Path, tmp_path: Path) -> None:
    film = mended.parent / "whole.mp4"  # groups of 12 frames
    settings_ = config(every=1, decoders=1)
    (whole,) = in_turn([Run(str(film), settings_, str(tmp_path / "whole"))])
    late = len(whole.log) - 12
    killed, resumed = in_turn(
        [
            Run(str(film), settings_, str(tmp_path / "here"), kill_at=late),
            Run(str(film), settings_, str(tmp_path / "here")),
        ]
    )
    assert killed.killed and whole.result["came"] == 90 and resumed.result["came"] < 40


def test_what_moves_is_told_once_the_neighbour_has_come(mended: Path, tmp_path: Path) -> None:
    """Each sample is a keyframe here, and is told before the frame behind it has come, which tells what moves in it."""
    film, here = mended.parent / "whole.mp4", tmp_path / "here"  # groups of 12 frames
    settings_ = config(every=12, start="1f", decoders=1)
    want = undisturbed(film, settings_)
    (whole,) = in_turn([Run(str(film), settings_, str(tmp_path / "whole"))])
    same(whole, want)
    (killed,) = in_turn([Run(str(film), settings_, str(here), kill_at=len(whole.log) - 4)])
    assert killed.killed
    with (
        closing(open_source(film)) as source,
        closing(Checkpoint(here, source.identity(), Config(**settings_))) as left,
    ):
        assert left.frame is not None and len(left.settled) > 3
        view = CoarseView(left.frame, len(left.samples))
        for sample, text in zip(left.samples, left.coarse, strict=True):
            view.recall(sample.index, text or "")
        assert not view.awaited() & left.settled
    (resumed,) = in_turn([Run(str(film), settings_, str(here))])
    same(resumed, want)
    assert resumed.result["came"] < 4


def test_without_neighbours_nothing_is_waited_for(mended: Path, tmp_path: Path) -> None:
    film, here = str(mended.parent / "whole.mp4"), str(tmp_path / "here")
    settings_ = config(every=1, snap="keyframe", decoders=1)
    (whole,) = in_turn([Run(film, settings_, str(tmp_path / "whole"))])
    killed, resumed = in_turn([Run(film, settings_, here, kill_at=len(whole.log) - 4), Run(film, settings_, here)])
    assert killed.killed and whole.result["came"] == 8 and resumed.result["came"] < 4
    same(resumed, undisturbed(film, settings_))


def test_a_resume_on_another_device_or_with_other_decoders(device: str, film: Path, tmp_path: Path) -> None:
    """The samples' file is the same for all."""
    stop = RuntimeError("enough")

    def enough(now: Any) -> None:
        if now.samples == 11:
            raise stop

    want = estimate(film, Config(every=EVERY, device="cpu"))
    with pytest.raises(RuntimeError, match="enough"):
        estimate(film, Config(every=EVERY, device=device, decoders=2), enough, checkpoint=tmp_path / "here")
    for other in (device, "cpu", device):
        got = estimate(film, Config(every=EVERY, device=other, memory_limit="3GB"), checkpoint=tmp_path / "here")
        np.testing.assert_array_equal(got.background, want.background)
        np.testing.assert_array_equal(got.variance, want.variance)
        assert got.samples == want.samples


def command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The real command; only that it commits after each sample, and takes its time for it."""
    code = """
import sys, time
from gpu_bgstat import __main__, checkpoint
checkpoint.EVERY_S = checkpoint._COMMITS_SHARE = 0
real = checkpoint.Checkpoint.commit
checkpoint.Checkpoint.commit = lambda *arguments: (real(*arguments), time.sleep(0.01))
sys.exit(__main__.main())
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, "estimate", *arguments], stderr=subprocess.PIPE, text=True, **options
    )


def outputs(folder: Path) -> dict[str, bytes]:
    """Those that hold nothing of the way."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".npy")}


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_the_command_goes_on_where_a_signal_stopped_it(number: signal.Signals, code: int, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    Arena(width=640, height=480, animals=2).film(film, 900, "mpeg4")  # groups of 12 frames
    asked = [str(film), "--every", "3", "--decoders", "1", "--device", "cpu"]
    whole = command(*asked, "-o", str(tmp_path / "whole"))
    whole.communicate()
    assert whole.returncode == 0
    here = tmp_path / "here"
    process = command(*asked, "-o", str(here), "--resume")
    deadline = time.monotonic() + 30
    while not (told := (here / ".checkpoint/journal")).exists() or told.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    sent = time.monotonic()
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code and time.monotonic() - sent < 5
    assert {path.name for path in here.iterdir()} == {".checkpoint"}
    unaware = command(*asked, "-o", str(here), "--every", "100")
    assert "warning: " in unaware.communicate()[1] and unaware.returncode == 0
    process = command(*asked, "-o", str(here), "--resume")
    err = process.communicate()[1]
    assert process.returncode == 0, err
    resumed = next(line for line in err.splitlines() if line.startswith("resumed: "))
    assert 0 < int(resumed.split()[1]) <= 300 and resumed.endswith(f"of 300 samples are in {here}/.checkpoint")
    assert outputs(here) == outputs(tmp_path / "whole")
    assert not (here / ".checkpoint").exists()


def test_results_that_cannot_be_written_leave_the_checkpoint(film: Path, megabyte_disk: Path, tmp_path: Path) -> None:
    """A full disk under the results; once it has room, nothing is decoded again."""
    asked = [str(film), "--every", "4", "--device", "cpu", "--checkpoint", str(tmp_path / "mine")]
    filler = megabyte_disk / "filler"
    filler.write_bytes(bytes(1_010_000))
    process = command(*asked, "-o", str(megabyte_disk / "out"))
    err = process.communicate()[1]
    assert process.returncode == 1 and "cannot be written (No space left on device)" in err
    assert (tmp_path / "mine/journal").exists() and not (megabyte_disk / "out").exists()
    filler.unlink()
    process = command(*asked, "-o", str(megabyte_disk / "out"))
    err = process.communicate()[1]
    assert process.returncode == 0 and "resumed: 22 of 22 samples" in err
    assert not (tmp_path / "mine").exists()


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


def test_a_disk_that_fills_up_under_the_checkpoint(
    mended: Path, megabyte_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear error; what was told stays true, and the run goes on when there is room."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "_COMMITS_SHARE", 0)
    film, here = mended.parent / "whole.mp4", megabyte_disk / "checkpoint"
    want = estimate(film, Config(every=4, device="cpu"))

    def fill(now: Any) -> None:
        if now.samples == 9:
            room = shutil.disk_usage(megabyte_disk).free
            (megabyte_disk / "filler").write_bytes(bytes(max(0, room - 20_000)))

    settings_ = Config(every=4, device="cpu", decoders=1)
    with pytest.raises((CheckpointError, ScratchError), match=r"cannot be written \(No space left on device\)"):
        estimate(film, settings_, fill, checkpoint=here)
    (megabyte_disk / "filler").unlink()
    came: list[Any] = []
    got = estimate(film, settings_, came.append, checkpoint=here)
    assert len(came) < 22
    np.testing.assert_array_equal(got.background, want.background)


def test_holes_in_a_store_are_told_after_a_resume(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    frames = np.stack(list(Arena(width=64, height=48).frames(20)))
    store = zarr.create_array(str(tmp_path / "rec.zarr"), shape=frames.shape, chunks=(1, 24, 64, 3), dtype="uint8")
    store[:] = frames
    for lost in ("3.0.0.0", "3/0/0/0"):
        shutil.rmtree(tmp_path / "rec.zarr/c" / lost, ignore_errors=True)
        (tmp_path / "rec.zarr/c" / lost).unlink(missing_ok=True)
    settings_ = config(every=1)
    source = str(tmp_path / "rec.zarr")
    want = undisturbed(source, settings_)
    assert any("not stored" in warning for warning in want["warnings"])
    (whole,) = in_turn([Run(source, settings_, str(tmp_path / "whole"))])
    here = str(tmp_path / "here")
    _, resumed = in_turn([Run(source, settings_, here, kill_at=len(whole.log) - 9), Run(source, settings_, here)])
    same(resumed, want)
    assert resumed.result["came"] < 10


# --- what is refused -----------------------------------------------------------------------------------------------


def interrupted(source: Any, folder: Path, **settings_: Any) -> None:
    def stop(now: Any) -> None:
        if now.samples == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(source, Config(**config(**settings_)), stop, checkpoint=folder)


def test_another_recording_setting_or_version_is_refused(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, mine = tmp_path / "here", tmp_path / "film.mp4"
    shutil.copy2(film, mine)
    interrupted(mine, here)
    before = {path.name: path.read_bytes() for path in here.iterdir()}

    def refusal(source: Any = mine, **settings_: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            estimate(source, Config(**config(**settings_)), checkpoint=here)
        assert {path.name: path.read_bytes() for path in here.iterdir()} == before
        return str(caught.value)

    assert refusal(every=5).endswith(
        f"it is of another setting (every: {EVERY} then, 5 now); remove the folder to start anew"
    )
    assert "another setting (gray: False then, True now)" in refusal(gray=True)
    os.utime(mine, ns=(1, 1))
    assert "another recording (times: " in refusal()
    shutil.copy2(film, mine)
    mine.write_bytes(mine.read_bytes() + b"more")
    assert "another recording (bytes: " in refusal()
    with mine.open("r+b") as file:
        file.seek(12)  # the minor version of the brand, which nobody reads
        file.write(b"othr")
        file.truncate(film.stat().st_size)
    shutil.copystat(film, mine)
    assert "another recording (first_bytes: " in refusal()
    shutil.copy2(film, mine)
    monkeypatch.setattr(checkpoint, "__version__", "99.0")
    assert "another version (gpu_bgstat: " in refusal()
    monkeypatch.setattr(checkpoint, "_FORMAT", 99)
    assert "it has format 2, and this is gpu_bgstat 99.0 with 99" in refusal()
    monkeypatch.undo()
    assert len(estimate(mine, Config(**config(device="auto", memory_limit="5GB")), checkpoint=here).samples) == 22


def test_what_cannot_be_read_twice_is_refused(tmp_path: Path) -> None:
    frames = np.zeros((9, 8, 8), np.uint8)
    for source in (frames, iter(frames)):
        with pytest.raises(SourceError, match=r"cannot be read again from where it stopped.*leave resume out"):
            estimate(source, Config(every=1), checkpoint=tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_two_processes_do_not_share_a_checkpoint(film: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    interrupted(film, tmp_path / "here")
    with (
        closing(journal.Journal(tmp_path / "here/journal")),
        pytest.raises(CheckpointError, match="here is in use by another process: wait for its end"),
    ):
        estimate(film, Config(**config()), checkpoint=tmp_path / "here")


def test_a_checkpoint_without_its_samples(film: Path, tmp_path: Path) -> None:
    interrupted(film, tmp_path / "here")
    (tmp_path / "here/samples").unlink()
    with pytest.raises(CheckpointError, match=r"samples is gone: remove .*here to start anew"):
        estimate(film, Config(**config()), checkpoint=tmp_path / "here")


def test_samples_that_were_cut_are_refused(film: Path, tmp_path: Path) -> None:
    interrupted(film, tmp_path / "here")
    os.truncate(tmp_path / "here/samples", 100)
    with pytest.raises(CheckpointError, match=r"samples has 100 bytes, and had .*: remove .*here to start anew"):
        estimate(film, Config(**config()), checkpoint=tmp_path / "here")


@pytest.mark.parametrize("name", ["journal", "samples"])
@pytest.mark.parametrize("make", ["pipe", "folder", "device"])
def test_no_file_where_one_should_be(film: Path, tmp_path: Path, name: str, make: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    if make == "pipe":
        os.mkfifo(here / name)
    elif make == "folder":
        (here / name).mkdir()
    else:
        (here / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"is no file: |cannot be (written|opened) \(Is a directory\)"):
        estimate(film, Config(**config()), checkpoint=here)


def test_a_checkpoint_that_tells_of_nothing_goes(film: Path, tmp_path: Path) -> None:
    with pytest.raises(BgstatError):
        estimate(film, Config(**config(roi=(0, 0, 5000, 5000))), checkpoint=tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("folder", ["a/b/c", "file"])
def test_a_folder_that_cannot_be_made(film: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made for the checkpoint"):
        estimate(film, Config(**config()), checkpoint=tmp_path / folder)


# --- the journal ---------------------------------------------------------------------------------------------------


def line(record: Any) -> bytes:
    text = json.dumps(record).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_what_stands_behind_a_torn_line_does_not_count() -> None:
    whole = line({"a": 1}) + line({"b": [2]})
    for cut in range(len(whole) + 1):
        records, end = journal.parsed(whole[:cut])
        assert whole[:end] == b"".join(line(record) for record in records)
        assert len(records) == whole[:cut].count(b"\n")
    for place in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[place] ^= 0x41
        assert len(journal.parsed(bytes(spoiled))[0]) < 2


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                line,
                st.recursive(
                    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                ),
            ),
        )
    )
)
def test_any_bytes_are_a_journal(parts: list[bytes]) -> None:
    content = b"".join(parts)
    records, end = journal.parsed(content)
    assert all(isinstance(record, dict) for record in records) and 0 <= end <= len(content)


TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kind", "plan", "source", "frame", "samples", "unsettled", "clipped", "first"]),
            st.one_of(
                TREE, st.sampled_from(["reading", "commit"]), st.just([{"index": 1, "time_s": 2, "brightness": 3}])
            ),
        ),
        max_size=4,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_records_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    """Whoever wrote them, with checksums that are right."""
    folder = tmp_path_factory.mktemp("any")
    closing_ = Checkpoint(folder / "here", {"bytes": 1}, Config())
    head = (folder / "here/journal").read_bytes()
    closing_.close()
    (folder / "here").mkdir()
    (folder / "here/journal").write_bytes(head + b"".join(line(record) for record in records))
    try:
        Checkpoint(folder / "here", {"bytes": 1}, Config()).close()
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_a_full_disk_keeps_what_the_journal_had(tmp_path: Path) -> None:
    """/dev/full takes nothing; a real small disk is in the tests of the command."""
    with closing(journal.Journal(tmp_path / "journal")) as book:
        book.append({"a": 1})
        real, book._file = book._file, os.open("/dev/full", os.O_RDWR)
        with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\)"):
            book.append({"b": 2})
        os.close(book._file)
        book._file = real
        book.append({"c": 3})
    with closing(journal.Journal(tmp_path / "journal")) as book:
        assert book.found == [{"a": 1}, {"c": 3}]
