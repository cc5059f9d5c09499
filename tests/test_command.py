"""The command as a user meets it: options, what it prints where, exit codes, a terminal, a log, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import recording
from numpy.typing import NDArray

from gpu_bgstat import Config, Progress, __version__, estimate, progress
from gpu_bgstat.cli import default_folder, main
from gpu_bgstat.frames import Image
from gpu_bgstat.methods import METHODS
from gpu_bgstat.outputs import OUTPUTS, save

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads this once, perhaps before `main` sets it
MODULE = [sys.executable, "-m", "gpu_bgstat"]
SCRIPT = [str(Path(sys.executable).parent / "gpu-bgstat")]
STOPS_WITHIN_S = 1.0


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content; folders have None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def frames(film: Path) -> NDArray[np.uint8]:
    """The film's frames by a plain decode, (90, 72, 96, 3)."""
    with av.open(str(film)) as container:
        pictures = [
            picture.to_ndarray(format="bgr24", interpolation="BICUBIC") for picture in container.decode(video=0)
        ]
    return np.stack(pictures)


def outcome(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, run in this process."""
    code = main([str(argument) for argument in arguments])
    told = capfd.readouterr()
    return code, told.out, undeviced(told.err)


def undeviced(err: str) -> str:
    """Without the line that says which device was chosen: it depends on the machine, and has a test of its own."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("device: "))


def background_of(folder: Path) -> Image:
    return picture(folder / "background_est.png")


def picture(path: Path) -> Image:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def report_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return told


# --- what it writes and prints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["gpu-bgstat", "python -m gpu_bgstat"])
def test_the_real_command(command: list[str], film: Path, frames: NDArray[np.uint8], tmp_path: Path) -> None:
    """All files with the right content, and two lines that say where they are."""
    output = tmp_path / "deep" / "results"
    done = subprocess.run(
        [*command, "estimate", film, "-o", output, "--every", "9", *MEDIAN],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, undeviced(done.stderr)) == (0, "")
    count, where = done.stdout.splitlines()
    assert count.startswith("10 samples of 90 frames in ") and count.endswith(" % of the pixels are stable")
    assert where == f"background: {output / 'background_est.png'}   report: {output / 'report.html'}"
    assert sorted(path.name for path in output.iterdir()) == sorted(OUTPUTS)
    sampled = frames[8::9]
    assert np.array_equal(background_of(output), np.median(sampled, axis=0).astype(np.uint8))
    variance = np.load(output / "variance.npy")
    assert variance.dtype == np.float32
    assert np.allclose(variance, sampled.astype(np.float64).var(axis=0), rtol=1e-6)  # float32's last digit
    mask = picture(output / "stable_mask.png")
    assert np.array_equal(mask, np.where(variance.max(axis=2) <= 4, 255, 0))
    heat = picture(output / "background_var.png")
    assert heat.shape == (72, 96) and heat.max() == 255
    report = report_of(output)
    assert report["source"] == str(film)
    assert [sample["index"] for sample in report["samples"]] == list(range(8, 90, 9))
    assert "<html" in (output / "report.html").read_text()


def test_json_is_alone_on_stdout(film: Path, tmp_path: Path) -> None:
    """Everything else goes to stderr; what is printed is what is written."""
    arguments = ["estimate", str(film), "-o", str(tmp_path), "--every", "9", "--json"]
    done = subprocess.run([*MODULE, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert json.loads(done.stdout) == report_of(tmp_path)
    assert "10 samples of 90 frames" in done.stderr
    quiet = subprocess.run([*MODULE, *arguments, "--quiet"], capture_output=True, text=True, check=False, timeout=60)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert json.loads(quiet.stdout)["frames"] == {"seen": 90, "sampled": 10, "damaged": 0, "dropped": 0}


def test_json_of_a_failure_is_no_json(film: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = outcome(capfd, "estimate", film, "-o", tmp_path, "--json")
    assert (code, out) == (1, "") and err.count("\n") == 1


def test_quiet_is_silent(film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Even about damage, which the report tells."""
    cut = tmp_path / "cut.ts"
    with av.open(str(film)) as old, av.open(str(cut), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    loud = outcome(capfd, "estimate", cut, "--every", "1", "-o", tmp_path / "loud")
    assert loud[0] == 0 and "warning: the file ends within" in loud[2]
    assert outcome(capfd, "estimate", cut, "--every", "1", "-o", tmp_path / "quiet", "--quiet") == (0, "", "")
    assert any("ends within" in warning for warning in report_of(tmp_path / "quiet")["warnings"])
    assert outcome(capfd, "demo", "--seconds", "2", "-o", tmp_path / "demo", "--quiet") == (0, "", "")


def test_the_default_folder(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user stands, named after the recording."""
    monkeypatch.chdir(tmp_path)
    assert main(["estimate", str(film), "--every", "9", "--quiet"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["arena_background"]
    assert sorted(path.name for path in (tmp_path / "arena_background").iterdir()) == sorted(OUTPUTS)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("-", "stdin_background"),
        ("rec.mp4", "rec_background"),
        ("/data/day 1/rec.2.mp4", "rec.2_background"),
        ("frames/", "frames_background"),
        ("frames/*.png", "all_background"),
        ("img_*.png", "img_all_background"),
        ("camera:0", "camera:0_background"),
    ],
)
def test_names_of_default_folders(name: str, folder: str) -> None:
    assert default_folder([name]) == Path(folder)


def test_the_default_folder_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuesday").mkdir()
    monkeypatch.chdir(tmp_path / "tuesday")
    assert default_folder(["."]) == Path("tuesday_background")


def test_a_name_that_is_no_utf_8(film: Path, tmp_path: Path) -> None:
    """The report names the file such that `os.fsencode` finds it again."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(path)).write_bytes(film.read_bytes())
    estimating: list[str | bytes] = ["estimate", path, "--every", "9"]
    for command in ([*estimating, "--json"], estimating, ["plan", path]):
        done = subprocess.run([*MODULE, *command], cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        if "--json" in command:
            assert os.fsencode(json.loads(done.stdout)["source"]) == path
    assert os.fsencode(report_of(Path(os.fsdecode(path).removesuffix(".mp4") + "_background"))["source"]) == path


# --- options -------------------------------------------------------------------------------------------------------

MEDIAN = ["--method", "median"]
OPTIONS: dict[str, tuple[list[str], Config]] = {
    "every": (["--every", "7"], Config(every=7)),
    "max samples": (["--every", "2", "--max-samples", "5"], Config(every=2, max_samples=5)),
    "recent": (
        ["--every", "2", "--max-samples", "5", "--keep", "recent"],
        Config(every=2, max_samples=5, keep="recent"),
    ),
    "seconds": (["--every", "1", "--start", "0.5", "--end", "2"], Config(every=1, start=0.5, end=2.0)),
    "clock": (["--every", "1", "--start", "00:00:01", "--end", "0:02"], Config(every=1, start=1.0, end=2.0)),
    "frames": (["--every", "3", "--start", "10f", "--end", "50f"], Config(every=3, start="10f", end="50f")),
    "duration": (["--every", "1", "--start", "1", "--duration", "0.5"], Config(every=1, start=1.0, duration=0.5)),
    "grey": (["--every", "9", "--gray"], Config(every=9, gray=True)),
    "16 bits": (["--every", "9", "--depth", "16"], Config(every=9, depth=16)),
    "threshold": (["--every", "9", "--threshold", "30"], Config(every=9, threshold=30)),
    "fill": (["--every", "9", "--fill", "global"], Config(every=9, fill="global")),
    "roi": (["--every", "9", "--roi", "10,20,30,40"], Config(every=9, roi=(10, 20, 30, 40))),
    "cpu": (["--every", "9", "--device", "cpu"], Config(every=9, device="cpu")),
    "auto": (["--every", "9", "--device", "auto"], Config(every=9, device="auto")),
    "cassette": (["--every", "9", "--preset", "cassette"], Config.preset("cassette", every=9)),
    "default": (["--every", "9", "--preset", "default"], Config(every=9)),
}

# frame numbers that these settings sample of 90 frames at 30 a second
SAMPLED: dict[str, list[int]] = {
    "every": [6, 13, 20, 27, 34, 41, 48, 55, 62, 69, 76, 83],
    "max samples": [17, 35, 53, 71, 89],
    "recent": [81, 83, 85, 87, 89],
    "seconds": list(range(15, 60)),
    "clock": list(range(30, 60)),
    "frames": list(range(12, 50, 3)),
    "duration": list(range(30, 45)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_reaches_the_estimate(
    name: str, film: Path, frames: NDArray[np.uint8], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Settings, samples and pixels, which are those of the median."""
    arguments, config = OPTIONS[name]
    config = config.model_copy(update={"method": "median"})
    code, out, _ = outcome(capfd, "estimate", film, "-o", tmp_path, "--json", *arguments, *MEDIAN)
    assert code == 0
    told = json.loads(out)
    assert {**told["config"], **told["run"]["config"]} == config.model_dump(mode="json")
    indices = [sample["index"] for sample in told["samples"]]
    assert indices == SAMPLED.get(name, list(range(8, 90, 9)))
    found = background_of(tmp_path)
    sampled = frames[indices]
    variance = sampled.astype(np.float64).var(axis=0)
    if name == "grey":
        sampled = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in sampled])
    if name == "roi":
        sampled = sampled[:, 20:60, 10:40]
    expected = np.median(sampled, axis=0).astype(np.uint8)
    if name == "16 bits":
        assert found.dtype == np.uint16
        assert np.abs(found / 257 - expected).max() < 4  # swscale truncates at 8 bits
        return
    if name in ("fill", "cassette"):
        stable = variance.max(axis=2).astype(np.float32) <= 4
        expected[~stable] = np.median(expected[stable], axis=0).astype(np.uint8)
    assert np.array_equal(found, expected)
    if name == "threshold":
        mask = picture(tmp_path / "stable_mask.png")
        assert np.array_equal(mask, np.where(variance.max(axis=2) <= 30, 255, 0))


@pytest.mark.parametrize("method", [*METHODS, "default"])
def test_each_method_reaches_the_estimate(
    method: str, film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its lag; the samples are the same, and the pixels those of the library."""
    asked = [] if method == "default" else ["--method", method, "--lag-s", "0.1"]
    config = Config(every=9) if method == "default" else Config(every=9, method=method, lag_s=0.1)
    code, out, _ = outcome(capfd, "estimate", film, "-o", tmp_path, "--every", "9", "--json", *asked)
    told = json.loads(out)
    assert code == 0 and {**told["config"], **told["run"]["config"]} == config.model_dump(mode="json")
    assert [sample["index"] for sample in told["samples"]] == list(range(8, 90, 9))
    background = estimate(film, config)
    assert np.array_equal(background_of(tmp_path), background.background)
    choice = picture(tmp_path / "choice.png")
    assert np.array_equal(choice, background.choice * 127.5 // 1) and (choice.any() <= (method in ("auto", "default")))


def test_several_files_are_one_recording(film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capfd, "estimate", film, film, "--every", "50", "-o", tmp_path, "--json")
    assert code == 0
    assert [sample["index"] for sample in json.loads(out)["samples"]] == [49, 99, 149]


@pytest.mark.parametrize("pix", ["bgr24", "gray", "gray16le"])
def test_raw_frames_on_standard_input(pix: str, frames: NDArray[np.uint8], tmp_path: Path) -> None:
    """As after `ffmpeg … -f rawvideo - |`; a last frame that is cut short is told."""
    raw: NDArray[Any] = frames if pix == "bgr24" else frames[..., 1]
    raw = raw.astype("<u2") * 200 if pix == "gray16le" else raw
    done = subprocess.run(
        [*MODULE, "estimate", "-", "--size", "96x72", "--pix", pix, "--every", "9", "-o", tmp_path, *MEDIAN],
        input=raw.tobytes() + b"half a frame",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert undeviced(done.stderr.decode()).startswith("warning: damage: the pipe ended inside frame 90, after 12 of ")
    found = background_of(tmp_path)
    assert found.dtype == (np.uint16 if pix == "gray16le" else np.uint8)
    assert np.array_equal(found, np.median(raw[8::9], axis=0).astype(found.dtype))


# --- plan, demo, help ----------------------------------------------------------------------------------------------


def test_plan(film: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples, memory and device; it writes nothing."""
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(capfd, "plan", film, "--every", "9")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == ["source", "frames", "samples", "memory", "device", "decoding", "place"]
    assert lines["source"] == str(film) and lines["frames"] == "90"
    assert lines["samples"] == "10, from frame 8 to frame 89 (3.0 s)"
    assert lines["memory"].startswith("0.2 MB of samples (96x72 colour, 8 bit)")
    assert lines["decoding"].startswith("90 of 90 packets, in 1 stretches on 1 decoders; ")
    assert lines["device"]
    code, out, err = outcome(capfd, "plan", film, "--every", "9", "--json", "--roi", "0,0,50,40", "--gray")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["samples"] == told["slots"] == 10 and (told["first"], told["last"]) == (8, 89)
    assert told["sample_bytes"] == 10 * 50 * 40 and told["sample_spec"] == "50x40 grey, 8 bit"
    assert told["last_s"] == pytest.approx(89 / 30, abs=1e-3)
    assert not any(tmp_path.iterdir())


def test_plan_says_what_will_fail(film: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "0: too few for a background" in outcome(capfd, "plan", film)[1]
    assert "1, from frame 49 to frame 49 (1.6 s): too few" in outcome(capfd, "plan", film, "--every", "50")[1]


def test_plan_of_a_pipe_reads_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capfd, "plan", "-", "--size", "640x480", "--pix", "bgr24", "--max-samples", "10")
    assert code == 0
    assert "at most 10 (the length is not known before the end)" in out and "9.2 MB of samples" in out


@pytest.mark.recordings
def test_plan_does_not_decode(capfd: pytest.CaptureFixture[str]) -> None:
    """10000 frames take seconds to decode, and much less to look through. Processor time, so load does not matter."""
    path = recording("animals/tracktor_mouse_video.mp4")
    started = time.process_time()
    code, out, _ = outcome(capfd, "plan", path, "--json")
    planned = time.process_time() - started
    told = json.loads(out)
    assert code == 0 and told["frames"] == 10000 and told["samples"] == 100
    with av.open(str(path)) as container:
        started = time.process_time()
        for number, _ in enumerate(container.decode(video=0)):
            if number == 999:
                break
    assert planned < 10 * (time.process_time() - started) / 3


@pytest.mark.recordings
def test_plan_knows_which_way_is_up(capfd: pytest.CaptureFixture[str]) -> None:
    """A region that fits the upright picture only."""
    path = recording("codec/decord_video_90.mov")
    code, out, _ = outcome(capfd, "plan", path, "--every", "1", "--roi", "0,0,320,568")
    assert code == 0 and "320x568 colour" in out
    assert outcome(capfd, "plan", path, "--every", "1", "--roi", "0,0,568,320")[0] == 1


def test_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A film, its truth, the estimate, a picture; and the error in words."""
    code, out, err = outcome(capfd, "demo", "--seconds", "2", "-o", tmp_path / "demo")
    assert (code, err) == (0, "")
    assert "60 frames, 4 animals, 60 samples" in out and "grey levels (AGE)" in out
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {*OUTPUTS, "arena.mp4", "truth.png", "demo.png"}
    assert report_of(tmp_path / "demo")["source"] == str(tmp_path / "demo" / "arena.mp4")


def test_help_version_and_usage(capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome(capfd, "--version") == (0, f"gpu-bgstat, version {__version__}\n", "")
    for arguments in (["-h"], ["--help"], ["estimate", "-h"], ["plan", "--help"], ["demo", "-h"]):
        code, out, err = outcome(capfd, *arguments)
        assert (code, err) == (0, "") and out.startswith("Usage: gpu-bgstat")
    for arguments in ([], ["estimate"], ["plan"], ["frobnicate"], ["--frobnicate"]):
        code, out, err = outcome(capfd, *arguments)
        assert (code, out) == (2, "") and "Usage: gpu-bgstat" in err


# --- progress ------------------------------------------------------------------------------------------------------


class Child:
    """The command in a process of its own, with a pipe or a terminal as its stderr."""

    def __init__(self, arguments: list[str | Path], terminal: bool = False, stdin: int = subprocess.DEVNULL) -> None:
        self.read, write = pty.openpty() if terminal else os.pipe()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [*MODULE, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=write, env=environment
        )
        os.close(write)
        self.told = b""

    def wait_for(self, text: bytes, timeout_s: float = 60.0) -> None:
        """Reads stderr until it has said this."""
        deadline = time.monotonic() + timeout_s
        while text not in self.told:
            assert time.monotonic() < deadline, f"never said {text!r}, but {self.told!r}"
            self._more(deadline - time.monotonic())

    def _more(self, timeout_s: float) -> bool:
        if not select.select([self.read], [], [], max(0.0, timeout_s))[0]:
            return True
        data = b""
        with suppress(OSError):  # a terminal whose other end is closed
            data = os.read(self.read, 65536)
        self.told += data
        return bool(data)

    def end(self) -> int:
        """The exit code, once stderr has ended."""
        deadline = time.monotonic() + 60
        while self._more(deadline - time.monotonic()):
            assert time.monotonic() < deadline
        os.close(self.read)
        assert self.process.stdout is not None
        self.out = self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(60)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """A signal: exit code 130 or 143 within a second, one line, no traceback."""
        code, word = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}[number]
        assert self.process.poll() is None, self.told
        started = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(30) == code
        took = time.monotonic() - started
        assert took < STOPS_WITHIN_S, f"it took {took:.2f} s"
        self.end()
        assert self.told.decode().split()[-1] == word
        assert b"Traceback" not in self.told and b"Exception" not in self.told
        assert self.out == b""


def test_a_bar_on_a_terminal(film: Path, tmp_path: Path) -> None:
    """Frames of all frames, samples, rate and time left; the bar is gone at the end."""
    reading, writing = os.pipe()
    os.close(writing)
    child = Child(["estimate", film, "--every", "1", "-o", tmp_path / "results"], terminal=True, stdin=reading)
    assert child.end() == 0
    os.close(reading)
    shown = child.told.decode()
    for part in ("reading", "/90", "samples", "frames/s", "left", "━"):
        assert part in shown
    assert shown.count("\x1b[") > 2
    assert child.out.decode().startswith("90 samples of 90 frames")


def test_no_bar_with_quiet_on_a_terminal(film: Path, tmp_path: Path) -> None:
    child = Child(["estimate", film, "--every", "1", "-o", tmp_path, "--quiet"], terminal=True)
    assert child.end() == 0
    assert (child.told, child.out) == (b"", b"")


def test_plain_lines_in_a_log(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No control characters: frame, samples, rate, time left. (Every sample here, instead of every 10 s.)"""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    code, _, err = outcome(capfd, "estimate", film, "--every", "30", "-o", tmp_path)
    lines = err.splitlines()
    assert code == 0 and len(lines) == 3 and "\x1b" not in err and "\r" not in err
    for line, frame, samples in zip(lines, (30, 60, 90), (1, 2, 3), strict=True):
        assert line.startswith(f"frame {frame} of 90, {samples} samples, ") and " frames/s" in line
    assert all(line.endswith(" s left") for line in lines[1:])
    assert outcome(capfd, "estimate", film, "--every", "30", "-o", tmp_path, "--quiet")[2] == ""


def test_the_device_is_told_in_one_line(film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Which one and why; nothing with --quiet."""
    assert main(["estimate", str(film), "--every", "30", "-o", str(tmp_path), "--device", "cpu"]) == 0
    assert capfd.readouterr().err == "device: cpu, as asked\n"
    assert main(["estimate", str(film), "--every", "30", "-o", str(tmp_path)]) == 0
    assert capfd.readouterr().err.startswith(("device: cpu, because ", "device: gpu:"))
    assert main(["estimate", str(film), "--every", "30", "-o", str(tmp_path), "--device", "cpu", "--quiet"]) == 0
    assert capfd.readouterr().err == ""


def test_a_short_run_says_nothing_in_a_log(film: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome(capfd, "estimate", film, "--every", "30", "-o", tmp_path)[2] == ""


def test_the_rate_is_believable() -> None:
    """It counts from the first sample on, and is no astronomical number at once."""
    meter = progress.Meter(shown=False)
    meter.update(Progress(1000, 2000, 1))
    assert "0 frames/s" in meter._line(Progress(1000, 2000, 1), 0.0)
    assert "left" not in meter._line(Progress(1000, 2000, 1), 0.0)


# --- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 frames of 640x480 that take their time to decode; given many times over, they are seconds of work."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    rng = np.random.default_rng(0)
    pictures = [av.VideoFrame.from_ndarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)) for _ in range(3)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 640, 480, "yuv420p", 30_000_000
        for number in range(200):
            picture = pictures[number % 3]
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with the results of an earlier run and something else."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    for name in (*OUTPUTS, "notes.txt"):
        (folder / name).write_bytes(b"earlier: " + name.encode())
    return folder


# Every frame is decoded, and little of it kept.
EVERYTHING = ["--every", "1", "--max-samples", "60000", "--gray", "--roi", "0,0,64,48"]


def test_interrupted_while_decoding_into_a_new_folder(long_film: Path, tmp_path: Path, stop: signal.Signals) -> None:
    """As soon as the bar shows samples; the folders that the command made are gone."""
    child = Child(
        ["estimate", *[long_film] * 60, *EVERYTHING, "-o", tmp_path / "a" / "b" / "c"],
        terminal=True,
    )
    child.wait_for(b"frames/s")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    child.stop(stop)
    assert tree(tmp_path) == {}


def test_interrupted_while_decoding_into_an_old_folder(
    long_film: Path, tmp_path: Path, earlier: Path, stop: signal.Signals
) -> None:
    """Later on, when the bar has moved; what was there stays as it was, to the byte."""
    before = tree(tmp_path)
    child = Child(["estimate", *[long_film] * 60, *EVERYTHING, "-o", earlier, "--json"], terminal=True)
    child.wait_for(b"frames/s")
    said = len(child.told)
    while len(child.told) < said + 2000:  # the bar is drawn ten times a second
        assert child._more(10), "it ended too early"
    child.stop(stop)
    assert tree(tmp_path) == before


def test_interrupted_while_opening(tmp_path: Path, long_film: Path, stop: signal.Signals) -> None:
    """At the first sign of life, the new folder, which comes before any decoding."""
    child = Child(["estimate", *[long_film] * 90, "--every", "1", "--quiet", "-o", tmp_path / "new"])
    while not (tmp_path / "new").exists():
        assert child.process.poll() is None
    child.stop(stop)
    assert tree(tmp_path) == {}


def feed(write: int, data: bytes, size: int) -> None:
    """Writes `size` bytes into a pipe. A pipe holds 64 KiB, so all the rest has been read when this returns."""
    for at in range(0, size, len(data)):
        view = memoryview(data)[: size - at]
        while view:
            view = view[os.write(write, view) :]


def test_interrupted_while_computing(tmp_path: Path, earlier: Path, stop: signal.Signals) -> None:
    """The last frame has been read: what goes on is the reduction of 400 MB of noise."""
    before = tree(tmp_path)
    reading, writing = os.pipe()
    arguments: list[str | Path] = [
        "estimate",
        "-",
        "--size",
        "1920x1080",
        "--pix",
        "gray",
        "--every",
        "1",
        "-o",
        earlier,
    ]
    child = Child(arguments, stdin=reading)
    os.close(reading)
    feed(writing, np.random.default_rng(0).bytes(1920 * 1080 + 1), 200 * 1920 * 1080)
    os.close(writing)
    child.stop(stop)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("quiet", [False, True])
def test_interrupted_while_waiting_for_a_pipe(quiet: bool, tmp_path: Path, earlier: Path, stop: signal.Signals) -> None:
    """The writer stops in the middle of a frame, and the command waits for the rest."""
    before = tree(tmp_path)
    reading, writing = os.pipe()
    arguments: list[str | Path] = ["estimate", "-", "--size", "100x100", "--pix", "gray", "--every", "1", "-o", earlier]
    child = Child([*arguments, "--quiet"] if quiet else arguments, stdin=reading)
    os.close(reading)
    feed(writing, bytes(range(256)), 1_000_123)
    child.stop(stop)
    os.close(writing)
    assert tree(tmp_path) == before


def test_interrupted_before_the_pipe_gives_anything(tmp_path: Path, stop: signal.Signals) -> None:
    reading, writing = os.pipe()
    child = Child(["estimate", "-", "--size", "9x9", "--pix", "gray", "-o", tmp_path / "new"], stdin=reading)
    os.close(reading)
    while not (tmp_path / "new").exists():
        assert child.process.poll() is None
    child.stop(stop)
    os.close(writing)
    assert tree(tmp_path) == {}


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def test_interrupted_while_a_url_is_silent(tmp_path: Path, stop: signal.Signals) -> None:
    """The server takes the call and says nothing. OpenCV waits ten seconds and hears no Ctrl-C; the command does."""
    with listening() as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/stream.mjpg"
        child = Child(["estimate", url, "--duration", "5", "-o", tmp_path / "new"])
        connection, _ = server.accept()
        with connection:
            assert connection.recv(4) == b"GET "
            child.stop(stop)
    assert tree(tmp_path) == {}


def test_interrupted_while_a_stream_stalls(tmp_path: Path, stop: signal.Signals) -> None:
    """The camera sends frames, of which the bar tells, and then no more."""
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    part = f"--f\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg + b"\r\n"
    stalled = threading.Event()
    with listening() as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/stream.mjpg"
        arguments: list[str | Path] = ["estimate", url, "--duration", "60", "--every", "1", "-o", tmp_path / "new"]
        child = Child(arguments, terminal=True)
        head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n"
        asked, _ = server.accept()  # first, whether this is a file
        with asked:
            assert b"Range: bytes=0-0" in asked.recv(1000)
            asked.sendall(head)
        connection, _ = server.accept()

        def film() -> None:
            connection.sendall(head)
            for _ in range(400):
                connection.sendall(part)
            stalled.set()

        camera = threading.Thread(target=film)
        camera.start()
        child.wait_for(b"frames/s")
        assert stalled.wait(60)
        child.stop(stop)
        camera.join()
        connection.close()
    assert tree(tmp_path) == {}


def test_interrupted_demo(tmp_path: Path, stop: signal.Signals) -> None:
    """While it films: the half-written film is gone too."""
    child = Child(["demo", "--seconds", "600", "-o", tmp_path / "demo"])
    while not any(path.stat().st_size for path in tmp_path.glob("demo/.*.mp4")):
        assert child.process.poll() is None
    child.stop(stop)
    assert tree(tmp_path) == {}


def test_ctrl_c_waits_for_the_renames(film: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real SIGINT after the second of six renames: all results are there, not a mixture; then it is heard."""
    background = estimate(film, Config(every=9))
    rename, renamed = Path.replace, []

    def interrupting(draft: Path, path: Path) -> Path:
        renamed.append(path.name)
        if len(renamed) == 2:
            signal.raise_signal(signal.SIGINT)
        return rename(draft, path)

    monkeypatch.setattr(Path, "replace", interrupting)
    with pytest.raises(KeyboardInterrupt):
        save(background, earlier)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sorted(renamed) == sorted(OUTPUTS)
    assert sorted(path.name for path in earlier.iterdir()) == sorted([*OUTPUTS, "notes.txt"])
    for name in OUTPUTS:
        assert not (earlier / name).read_bytes().startswith(b"earlier"), name


def test_ctrl_c_while_the_drafts_are_written(film: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is renamed, and no draft stays."""
    background = estimate(film, Config(every=9))
    before = tree(earlier)
    sync, synced = os.fsync, []

    def interrupting(handle: int) -> None:
        synced.append(handle)
        sync(handle)
        if len(synced) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", interrupting)
    with pytest.raises(KeyboardInterrupt):
        save(background, earlier)
    assert len(synced) == 3
    assert tree(earlier) == before


def test_a_signal_reaches_a_background_job(tmp_path: Path, stop: signal.Signals) -> None:
    """A shell starts `command &` with SIGINT ignored, and nohup may do more; the command hears signals all the same."""
    reading, writing = os.pipe()
    before = signal.signal(stop, signal.SIG_IGN)
    try:
        child = Child(["estimate", "-", "--size", "100x100", "--pix", "gray", "-o", tmp_path / "new"], stdin=reading)
    finally:
        signal.signal(stop, before)
    os.close(reading)
    feed(writing, b"\0", 300_000)
    child.stop(stop)
    os.close(writing)
    assert tree(tmp_path) == {}


def test_the_source_is_no_place_for_the_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((4, 4), np.uint8))
    code, _, err = outcome(capfd, "estimate", tmp_path, "-o", tmp_path, "--every", "1")
    assert code == 2 and "is the source" in err and len(list(tmp_path.iterdir())) == 3
    assert "the source has no name" in outcome(capfd, "estimate", "", "-o", tmp_path / "out")[2]


def test_a_password_is_told_to_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capfd, "estimate", "http://admin:s3cret@127.0.0.1:9/live", "--duration", "1")
    assert code == 1 and "http://127.0.0.1:9/live cannot be opened" in err and "s3cret" not in err


def test_a_demo_that_fails_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.png").mkdir()
    code, _, err = outcome(capfd, "demo", "--seconds", "2", "-o", tmp_path, "--quiet")
    assert code == 1 and "truth.png is a folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["truth.png"]


def test_json_is_utf_8_whatever_the_terminal(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "café.mp4"
    path.write_bytes(film.read_bytes())
    done = subprocess.run(
        [*MODULE, "estimate", path, "--every", "9", "-o", tmp_path / "out", "--json", "--quiet"],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0 and json.loads(done.stdout)["source"] == str(path)
