"""Live sources: drop-outs, slow collecting, snapshots, pipes. Cameras and writers are real servers and processes."""

from __future__ import annotations

import fcntl
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from cameras import MPEG_TS, Camera, filming, jpeg_part
from test_command import MODULE, Child, tree

from gpu_bgstat import Background, Config, Progress, Snapshots, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.cli import hush_opencv, main
from gpu_bgstat.errors import ConfigError, OutputError, SourceError
from gpu_bgstat.frames import Window
from gpu_bgstat.media import live
from gpu_bgstat.outputs import OUTPUTS
from gpu_bgstat.outputs.report import report
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.pipe import PipeSource
from gpu_bgstat.windows import estimate_windows

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # cameras that are away are meant here; OpenCV reads this once


@pytest.fixture(autouse=True)
def quiet_opencv() -> None:
    hush_opencv()


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    """No test leaves a reading thread behind, once its camera has gone."""
    yield
    deadline = time.monotonic() + 20
    while readers() and time.monotonic() < deadline:
        readers()[0].join(0.05)
    assert not readers()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and room for all frames: what a test does not look at should neither take time nor lose any."""
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(live, "ROOM", 10**6)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpu_bgstat live"]


def levels(background: Background) -> list[int]:
    return [round(sample.brightness) for sample in background.samples]


def times_s(background: Background) -> list[float]:
    return [sample.time_s or 0.0 for sample in background.samples]


# --- streams that drop out -----------------------------------------------------------------------------------------


class EveryFrame:
    """A plan that takes all, without knowing how many there are."""

    indices = chosen = None
    any_order = False

    def due(self, index: int, time_s: float | None) -> bool:
        return True

    def over(self, index: int, time_s: float | None) -> bool:
        return False


def of_the_stream(warnings: tuple[str, ...]) -> tuple[str, ...]:
    """Without those about the plain pictures that these streams show."""
    return tuple(warning for warning in warnings if "frozen" not in warning and "black" not in warning)


def test_a_stream_that_comes_back(hasty: None, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers go on counting, times by the clock; the gap is told when it comes, in the report, and counted."""

    def film(number: int) -> Iterable[bytes] | None:
        return {0: [jpeg_part(20)] * 20, 1: None, 2: None, 3: repeat(jpeg_part(120))}[number]

    with filming(film) as camera:
        background = estimate(camera.url, Config(every=1, end="50f", reconnect=20))
        away_s = camera.asked[3] - camera.asked[0]
    before = levels(background).count(20)
    assert before in (19, 20)  # FFmpeg may wait for a frame's end that does not come
    assert levels(background) == [20] * before + [120] * (50 - before)
    assert [sample.index for sample in background.samples] == list(range(50))
    times = times_s(background)
    assert times == sorted(times)
    left, back = times[before - 1], times[before]
    assert 0.05 + 0.1 + 0.2 <= back - left <= away_s + 10
    run = background.run
    assert of_the_stream(run.warnings) == (f"the stream dropped out once: no frames from {left:.1f} s to {back:.1f} s",)
    assert run.decoding["gaps"] == 1 and run.decoding["away_s"] == pytest.approx(back - left, abs=1e-3)
    said = [record.getMessage() for record in caplog.records if "stream" in record.getMessage()]
    assert said == [
        f"{camera.url} dropped out after {before} frames: it is opened again",
        f"{camera.url} is back at {back:.1f} s",
    ]


def test_the_pauses_double(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (live.FIRST_PAUSE_S, live.LONGEST_PAUSE_S) == (0.5, 30)
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(live, "LONGEST_PAUSE_S", 0.4)

    def film(number: int) -> Iterable[bytes] | None:
        return None if 1 <= number <= 4 else [jpeg_part(20)] * 20 if number == 0 else repeat(jpeg_part(120))

    with filming(film) as camera:
        estimate(camera.url, Config(every=1, end="40f", reconnect=60))
        pauses = np.diff(camera.asked)
    assert len(pauses) == 5
    assert (pauses >= [0.1, 0.2, 0.4, 0.4, 0.4]).all()
    assert pauses.sum() < 5


def test_each_gap_counts(hasty: None) -> None:
    """The pauses begin anew with each; a camera that answers without a frame has not come back."""

    def film(number: int) -> Iterable[bytes]:
        return [] if number % 2 else [jpeg_part(20 + 10 * number)] * 12

    with filming(film) as camera:
        background = estimate(camera.url, Config(every=1, end="60f", reconnect=30))
        pauses = np.diff(camera.asked)
    run = background.run
    assert run.decoding["gaps"] >= 4
    assert f"the stream dropped out {run.decoding['gaps']} times: no frames from " in run.warnings[0]
    assert run.warnings[0].count(" s to ") == run.decoding["gaps"]
    assert (pauses[::2] >= 0.05).all() and (pauses[1::2] >= 0.1).all() and pauses.max() < 5
    times = times_s(background)
    assert run.decoding["away_s"] == pytest.approx(sum(step for step in np.diff(times) if step > 0.14), abs=0.1)


def test_a_stream_that_never_comes_back(hasty: None) -> None:
    """Its server is gone. The samples so far are a result, and the report says since when they are all."""
    with filming(lambda _: endless_until(camera, 30)) as camera:

        def watch(progress: Progress) -> None:
            if progress.samples == 20:
                camera.stop()

        started = time.monotonic()
        background = estimate(camera.url, Config(every=1, duration=600, reconnect=1), watch)
        took = time.monotonic() - started
    assert 1 <= took < 8
    assert len(background.samples) >= 20
    gap, end = of_the_stream(background.run.warnings)
    last_s = times_s(background)[-1]
    assert gap.startswith(f"the stream dropped out once: no frames from {last_s:.1f} s to ")
    assert end.startswith(f"the stream ended after {len(background.samples)} frames: it was not back by ")
    assert background.run.decoding["away_s"] >= 1


def endless_until(camera: Camera, frames: int) -> Iterator[bytes]:
    """So many frames, and then none until the camera is stopped."""
    for _ in range(frames):
        yield jpeg_part(50)
    camera.released.wait(60)


def test_the_range_ends_while_the_stream_is_away(hasty: None) -> None:
    """Nobody waits longer than there are frames to be wanted."""
    with filming(lambda number: None if number else [jpeg_part(20)] * 20) as camera:
        started = time.monotonic()
        background = estimate(camera.url, Config(every=1, duration=0.7, reconnect=600))
        took = time.monotonic() - started
    assert 0.6 < took < 8
    assert "it was not back by" in background.run.warnings[1]


def test_without_reconnect_a_stream_that_drops_out_ends(hasty: None) -> None:
    with filming(lambda number: [jpeg_part(20)] * 20) as camera:
        background = estimate(camera.url, Config(every=1, duration=600))
    assert len(camera.asked) == 1
    assert of_the_stream(background.run.warnings) == (
        f"the stream ended by itself after {len(background.samples)} frames",
    )
    assert background.run.decoding["gaps"] == 0


def test_a_stream_that_comes_back_with_another_size(hasty: None) -> None:
    """The samples keep the size of the first; those that had to be resized are counted."""

    def film(number: int) -> Iterable[bytes]:
        return repeat(jpeg_part(120, 96, 80)) if number else [jpeg_part(20, 64, 48)] * 20

    with filming(film) as camera:
        background = estimate(camera.url, Config(every=1, end="60f", reconnect=20))
    assert background.background.shape == (48, 64, 3)
    assert background.run.resized == levels(background).count(120) >= 40
    assert f"{background.run.resized} samples had another size" in background.run.warnings[1]


def test_a_stream_that_stalls_is_opened_again(hasty: None) -> None:
    """The connection stays, and nothing comes: after half of the time to reconnect it is given up."""
    with filming(lambda number: repeat(jpeg_part(120)) if number else endless_until(camera, 20)) as camera:
        background = estimate(camera.url, Config(every=1, end="40f", reconnect=2.4))
    assert set(levels(background)) == {50, 120}
    assert len(background.samples) == 40
    assert 1.2 <= background.run.decoding["away_s"] < 10


def test_a_transport_stream_that_is_cut(hasty: None, tmp_path: Path) -> None:
    """H.264 in MPEG-TS, cut within a packet; the next connection begins with a keyframe again."""
    path = tmp_path / "arena.ts"
    arena = Arena(width=96, height=72, animals=2)
    arena.film(path, 60)
    data = path.read_bytes()
    cut = data[: len(data) // 2 + 77]

    def film(number: int) -> Iterable[bytes] | None:
        whole = cut if number == 0 else data
        return [whole[at : at + 1316] for at in range(0, len(whole), 1316)] if number < 3 else None

    with filming(film, MPEG_TS) as camera:
        background = estimate(camera.url, Config(every=1, duration=60, reconnect=1))
    assert background.run.decoding["gaps"] == 3
    assert 60 + 60 + 10 <= background.run.frames_seen <= 60 + 60 + 50
    assert [sample.index for sample in background.samples] == list(range(background.run.frames_seen))
    error = np.abs(background.background.astype(int) - arena.truth())
    assert np.median(error) < 4


def test_a_stream_without_a_frame(hasty: None) -> None:
    """The header of a stream is not a stream."""
    with filming(lambda number: [b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"]) as camera, pytest.raises(SourceError):
        estimate(camera.url, Config(every=1, duration=60, reconnect=0.3))


def test_the_settings_of_live_sources() -> None:
    for bad in (0, -1, float("nan"), float("inf"), "soon"):
        with pytest.raises(ConfigError, match=r"reconnect=.*a live stream that drops out is opened again"):
            Config(reconnect=bad)
    for every_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="give more than 0 seconds"):
            Snapshots(every_s, print)
        assert main(["estimate", "x.mp4", "--snapshot-every", str(every_s)]) == 2


# --- collecting slower than the stream -----------------------------------------------------------------------------


def until_read() -> None:
    """Returns when the stream has been read to its end."""
    for reader in readers():
        reader.join(60)


def test_frames_that_come_too_fast_are_dropped_and_counted() -> None:
    """Collecting stands still at its first sample until the camera has sent all its frames."""
    with filming(lambda number: [jpeg_part(20)] * 50) as camera, closing(open_source(camera.url)) as source:

        def slow(progress: Progress) -> None:
            if progress.samples == 1:
                until_read()

        background = estimate(source, Config(every=2, duration=600), slow)
    seen, kept = background.run.frames_seen, len(background.samples)
    assert seen in (49, 50)
    assert kept in (live.ROOM, live.ROOM + 1)  # the first one may have made room
    assert background.run.dropped == seen // 2 - kept
    assert report(background)["frames"] == {"seen": seen, "sampled": kept, "damaged": 0, "dropped": seen // 2 - kept}
    told = background.run.warnings[0]
    assert told.startswith(f"{background.run.dropped} frames that were due were dropped, because collecting was slower")
    assert " s to " in told and "raise every" in told


def test_what_waits_is_thinned_with_the_rest(hasty: None) -> None:
    """All frames were due when they came, and the interval doubled while they waited."""
    with filming(lambda number: [jpeg_part(20)] * 30) as camera:
        background = estimate(camera.url, Config(every=1, max_samples=4, duration=600), lambda progress: until_read())
    assert background.run.dropped == 0
    assert [sample.index for sample in background.samples] == [7, 15, 23]


def test_an_error_while_collecting_ends_the_reading(hasty: None) -> None:
    """At once, although the stream goes on."""

    def fail(progress: Progress) -> None:
        raise RuntimeError("enough")

    with filming(lambda number: repeat(jpeg_part(20))) as camera:
        with pytest.raises(RuntimeError, match="enough"):
            estimate(camera.url, Config(every=1, duration=600), fail)
        assert not readers()


def test_an_error_of_the_plan_comes_from_the_reading(hasty: None) -> None:
    """A range that the reading thread finds to be impossible is told where the estimate was asked for."""

    class Impossible(EveryFrame):
        def over(self, index: int, time_s: float | None) -> bool:
            raise ConfigError("no such place")

    with filming(lambda number: repeat(jpeg_part(20))) as camera, closing(open_source(camera.url)) as source:
        with pytest.raises(ConfigError, match="no such place"):
            next(source.read(Impossible()))
        until_read()
        assert not readers()


def test_windows_of_a_camera(hasty: None) -> None:
    """One connection; the reading thread asks the windows' schedules while the windows before are made."""
    taken: list[tuple[Window, Background | None]] = []

    def film(number: int) -> Iterable[bytes]:
        return chain([jpeg_part(20)] * 20, [jpeg_part(120)] * 20, repeat(jpeg_part(220)))

    with filming(film) as camera:
        config = Config(every=2, end="55f", every_window="20f", method="median")
        found = estimate_windows(camera.url, config, lambda window, background: taken.append((window, background)))
        assert len(camera.asked) == 1
    assert [(w.from_frame, w.to_frame, w.samples) for w in found.windows] == [(0, 20, 10), (20, 40, 10), (40, 55, 7)]
    assert [round(float(background.background.mean())) for _, background in taken if background] == [20, 120, 220]


def test_reading_twice_begins_anew(hasty: None) -> None:
    class Five(EveryFrame):
        def over(self, index: int, time_s: float | None) -> bool:
            return index >= 5

    with (
        filming(lambda number: repeat(jpeg_part(20 + 50 * number))) as camera,
        closing(open_source(camera.url)) as source,
    ):
        for level in (20, 70):
            frames = list(source.read(Five()))
            assert [frame.index for frame in frames] == list(range(5)) and frames[0].time_s == 0
            assert {int(frame.pixels[0, 0, 0]) for frame in frames} == {level}


def test_ctrl_c_ends_a_stream_at_once(hasty: None) -> None:
    """A real SIGINT, which comes while the main thread waits for a stream that has stalled."""
    started: list[float] = []

    def interrupt(progress: Progress) -> None:
        if progress.samples == 15:
            started.append(time.monotonic())
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with filming(lambda _: endless_until(camera, 20)) as camera:
        with pytest.raises(KeyboardInterrupt):
            estimate(camera.url, Config(every=1, duration=600), interrupt)
        assert 0.1 <= time.monotonic() - started[0] < 1.1


def test_ctrl_c_while_frames_come_ends_the_thread(hasty: None) -> None:
    def interrupt(progress: Progress) -> None:
        signal.raise_signal(signal.SIGINT)

    with filming(lambda _: repeat(jpeg_part(20))) as camera:
        with pytest.raises(KeyboardInterrupt):
            estimate(camera.url, Config(every=1, duration=600), interrupt)
        assert not readers()


def test_interrupted_while_a_stream_is_away(tmp_path: Path) -> None:
    with filming(lambda number: None if number else [jpeg_part(20)] * 20) as camera:
        child = Child(
            ["estimate", camera.url, "--every", "1", "--duration", "600", "--reconnect", "300", "-o", tmp_path / "new"]
        )
        child.wait_for(b"dropped out after")
        child.stop()
    assert tree(tmp_path) == {}


# --- snapshots -----------------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_background_so_far() -> None:
    """From the second sample on, and the collecting goes on as if nothing had been."""
    stack = np.random.default_rng(5).integers(0, 256, (40, 6, 8, 3), dtype=np.uint8)
    taken: list[Background] = []
    config = Config(every=2, max_samples=7, method="median")
    shown: list[Progress] = []
    final = estimate(iter(stack), config, shown.append, Snapshots(1e-9, taken.append))
    assert [len(snapshot.samples) for snapshot in taken] == [now.samples for now in shown if now.samples > 1]
    for snapshot in taken:
        due = [sample.index for sample in snapshot.samples]
        assert np.array_equal(snapshot.background, np.median(stack[due], axis=0).astype(np.uint8))
        assert snapshot.run.snapshot and snapshot.run.frames_seen >= due[-1] + 1
        assert report(snapshot)["snapshot"] is True
    assert [len(snapshot.samples) for snapshot in taken][:6] == [2, 3, 4, 5, 6, 7]
    assert not final.run.snapshot and "snapshots" in final.run.timings_s
    plain = estimate(iter(stack), config)
    assert np.array_equal(final.background, plain.background) and final.samples == plain.samples
    assert "snapshots" not in plain.run.timings_s and report(plain)["snapshot"] is False


@pytest.mark.parametrize("kind", ["video", "array", "images", "stream"])
def test_every_kind_of_source_has_snapshots(kind: str, film: Path, tmp_path: Path, hasty: None) -> None:
    with av.open(str(film)) as container:
        frames = [picture.to_ndarray(format="bgr24") for picture in container.decode(video=0)]
    given: Any = {"video": film, "array": np.stack(frames)}.get(kind)
    if kind == "images":
        for number, frame in enumerate(frames[:20]):
            cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
        given = tmp_path
    taken: list[Background] = []
    with filming(lambda number: [jpeg_part(20)] * 40) as camera:
        final = estimate(
            given if given is not None else camera.url,
            Config(every=5, duration=600 if kind == "stream" else None),
            snapshots=Snapshots(1e-9, taken.append),
        )
    assert len(taken) == len(final.samples) - 1
    assert [len(snapshot.samples) for snapshot in taken] == list(range(2, len(final.samples) + 1))
    assert np.array_equal(taken[-1].background, final.background)


def test_snapshots_come_in_their_time() -> None:
    """None before; and the seconds count from the end of the one before."""
    moments: list[float] = []

    def take(background: Background) -> None:
        moments.append(time.monotonic())

    started = time.monotonic()
    frame = np.zeros((4, 4), np.uint8)
    estimate(iter([frame] * 10), Config(every=1), snapshots=Snapshots(3600, take))
    assert not moments

    def frames() -> Iterator[np.ndarray[Any, Any]]:
        while time.monotonic() - started < 0.7:
            yield frame

    started = time.monotonic()
    estimate(frames(), Config(every=1), snapshots=Snapshots(0.2, take))
    assert 1 <= len(moments) <= 3
    assert all(step >= 0.2 for step in np.diff([started, *moments]))


def test_a_snapshot_that_cannot_be_written_is_a_warning() -> None:
    """Any other error is somebody's mistake, and ends the estimate."""
    taken: list[Background] = []

    def take(background: Background) -> None:
        taken.append(background)
        if len(taken) in (2, 4):
            raise OutputError("out/variance.npy cannot be written (No space left on device)")

    frames = [np.full((4, 4), k, np.uint8) for k in range(8)]
    final = estimate(iter(frames), Config(every=1), snapshots=Snapshots(1e-9, take))
    assert len(taken) == 7
    assert of_the_stream(final.run.warnings) == (
        "2 snapshots could not be written, 0 s to 0 s after the start: out/variance.npy cannot be written "
        "(No space left on device)",
    )
    with pytest.raises(ZeroDivisionError):
        estimate(iter(frames), Config(every=1), snapshots=Snapshots(1e-9, lambda background: 1 // 0))


class Piped:
    """The command on a pipe of grey frames of 40x30, with a snapshot after almost every sample."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        reading, self.writing = os.pipe()
        arguments: list[str | Path] = ["estimate", "-", "--size", "40x30", "--pix", "gray", "--every", "1"]
        self.child = Child([*arguments, "--snapshot-every", "1e-6", "-o", folder], stdin=reading)
        os.close(reading)

    def feed(self, *levels: int) -> None:
        for level in levels:
            os.write(self.writing, bytes([level]) * 1200)

    def wait_for_samples(self, count: int) -> dict[str, Any]:
        """The report of a snapshot with that many samples; feeds nothing."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.child.process.poll() is None:
            told = report_of(self.folder)
            if told.get("frames", {}).get("sampled") == count and not list(self.folder.glob(".*")):  # all renamed
                return told
        raise AssertionError(f"no snapshot of {count} samples, but {report_of(self.folder)}")


def report_of(folder: Path) -> dict[str, Any]:
    """Never half a file: they are renamed into place."""
    path = folder / "report.json"
    told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return told


def test_the_command_writes_snapshots_while_it_collects(tmp_path: Path) -> None:
    """All files are there while the pipe is still open; the result replaces them."""
    piped = Piped(tmp_path / "out")
    piped.feed(10, 20, 30)
    assert piped.wait_for_samples(3)["snapshot"] is True
    assert {name for name in tree(tmp_path / "out") if name[0] != "."} == set(OUTPUTS)  # the next one may be on its way
    shown = cv2.imread(str(tmp_path / "out" / "background_est.png"), cv2.IMREAD_UNCHANGED)
    assert shown is not None and (shown == 20).all()
    assert "snapshot while collecting went on" in (tmp_path / "out" / "report.html").read_text()
    piped.feed(100, 100, 100, 100)
    os.close(piped.writing)
    assert piped.child.end() == 0
    told = report_of(tmp_path / "out")
    assert told["snapshot"] is False and told["frames"]["sampled"] == 7
    assert "snapshot while" not in (tmp_path / "out" / "report.html").read_text()


def test_the_last_snapshot_stays_when_the_run_is_interrupted(tmp_path: Path) -> None:
    piped = Piped(tmp_path / "deep" / "out")
    piped.feed(10, 20)
    piped.wait_for_samples(2)
    before = tree(tmp_path)
    piped.child.stop()
    os.close(piped.writing)
    assert tree(tmp_path) == before
    assert report_of(tmp_path / "deep" / "out")["snapshot"] is True


def test_no_room_for_a_snapshot(tmp_path: Path) -> None:
    """The kernel refuses to write files beyond 100 bytes, and later no more: what was there stays, the run goes on."""
    piped = Piped(tmp_path / "out")
    piped.feed(10, 20)
    piped.wait_for_samples(2)
    before = tree(tmp_path)
    pid = piped.child.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    piped.feed(30)
    piped.child.wait_for(b"a snapshot is left out: ")
    assert tree(tmp_path) == before
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    piped.feed(40)
    piped.wait_for_samples(4)
    os.close(piped.writing)
    assert piped.child.end() == 0
    told = report_of(tmp_path / "out")
    assert told["warnings"][0].startswith("1 snapshots could not be written") and "too large" in told["warnings"][0]


def test_the_last_snapshot_stays_when_the_result_cannot_be_written(tmp_path: Path) -> None:
    piped = Piped(tmp_path / "out")
    piped.feed(10, 20)
    piped.wait_for_samples(2)
    before = tree(tmp_path)
    resource.prlimit(piped.child.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    os.close(piped.writing)
    assert piped.child.end() == 1
    assert b"cannot be written" in piped.child.told
    assert tree(tmp_path) == before


# --- pipes ---------------------------------------------------------------------------------------------------------

# Writes frames of 40x30 grey, frame n of level n mod 251, and says so when all are written.
WRITER = """
import os, sys
for number in range(int(sys.argv[1])):
    data = memoryview(bytes([number % 251]) * 1200)
    while data:
        data = data[os.write(1, data):]
os.write(2, b"done")
"""


def test_a_slow_reader_holds_the_writer_up_and_loses_nothing() -> None:
    """A real process writes; collecting stands still until the pipe is full, which stops the writer."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, "500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        room = fcntl.fcntl(writer.stdout.fileno(), fcntl.F_GETPIPE_SZ)
        told: list[int] = []

        def slow(progress: Progress) -> None:
            if progress.samples in (1, 200):
                assert writer.stdout is not None and writer.stderr is not None
                while in_pipe(writer.stdout.fileno()) < room * 3 // 4:  # of each page, three frames are filled
                    assert writer.poll() is None
                told.append(in_pipe(writer.stderr.fileno()))

        raw = io.BufferedReader(writer.stdout.raw, 1200)  # type: ignore[attr-defined]
        background = estimate(PipeSource(raw, 40, 30, "gray"), Config(every=1), slow)
        assert writer.wait(60) == 0
        assert told == [0, 0]  # it had more to write
        assert writer.stderr.read() == b"done"
    assert [sample.index for sample in background.samples] == list(range(500))
    assert levels(background) == [number % 251 for number in range(500)]
    assert background.run.dropped == background.run.damaged == 0


def in_pipe(descriptor: int) -> int:
    """Bytes that wait in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0])


def test_a_writer_that_dies_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    """kill -9 of the writing process; the whole frames before are the result, and the report says what is missing."""
    dying = WRITER.replace("os.write(2, b", "os.write(1, b'x' * 700); os.kill(os.getpid(), 9); os.write(2, b")
    arguments = ["estimate", "-", "--size", "40x30", "--pix", "gray", "--every", "1", "-o", str(tmp_path / "out")]
    with subprocess.Popen([sys.executable, "-c", dying, "9"], stdout=subprocess.PIPE) as writer:
        done = subprocess.run(
            [*MODULE, *arguments], stdin=writer.stdout, capture_output=True, text=True, check=False, timeout=60
        )
        assert writer.wait(60) == -signal.SIGKILL
    assert done.returncode == 0
    told = report_of(tmp_path / "out")
    assert told["frames"] == {"seen": 9, "sampled": 9, "damaged": 1, "dropped": 0}
    assert "damage: the pipe ended inside frame 9, after 700 of 1200 bytes" in told["warnings"]
    assert "warning: damage: the pipe ended inside frame 9" in done.stderr


def test_the_bounds_of_what_is_told() -> None:
    """A stream may drop out a thousand times: the first times are named."""
    tally = live.Tally()
    for number in range(1000):
        tally.add(number, number + 0.5)
        tally.extend(number + 0.7)
    assert (tally.count, len(str(tally)) < 600) == (1000, True)
    assert str(tally).startswith("0.0 s to 0.7 s, 1.0 s to 1.7 s, ") and str(tally).endswith(" and 980 more")
