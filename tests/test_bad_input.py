"""Bad input: one clear line on stderr, the right exit code, never a traceback, and nothing half written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tifffile

from gpu_bgstat import BgstatError, Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.cli import main
from gpu_bgstat.errors import FrameError, SourceError, TooFewSamplesError
from gpu_bgstat.frames import Image
from gpu_bgstat.outputs import OUTPUTS

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads this once, perhaps before `main` sets it
COMMAND = [sys.executable, "-m", "gpu_bgstat"]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content; folders have None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts, frame.time_base = 44100, 1024 * number, Fraction(1, 44100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Path:
    """A folder full of things that are no recordings, and one that is (film.mp4, 90 frames of 96x72)."""
    zoo = tmp_path_factory.mktemp("zoo")
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (20, 16, 24), dtype=np.uint8)
    (zoo / "film.mp4").write_bytes(film.read_bytes())
    (zoo / "text.mp4").write_text("not a film\n" * 100)
    (zoo / "text.txt").write_text("not a film\n" * 100)
    (zoo / "noise.avi").write_bytes(rng.bytes(50_000))
    (zoo / "zero.mp4").write_bytes(b"")
    (zoo / "zero.npy").write_bytes(b"")
    (zoo / "zero.tif").write_bytes(b"")
    sound_only(zoo / "sound.mp4")
    (zoo / "cut.mp4").write_bytes(film.read_bytes()[:2000])
    (zoo / "fifo.mp4").unlink(missing_ok=True)
    os.mkfifo(zoo / "fifo.mp4")
    (zoo / "empty").mkdir()
    (zoo / "papers").mkdir()
    (zoo / "papers" / "notes.txt").write_text("no picture")
    (zoo / "broken").mkdir()
    for number in range(3):
        (zoo / "broken" / f"{number}.png").write_bytes(b"no picture")
    (zoo / "pair").mkdir()
    cv2.imwrite(str(zoo / "pair" / "1.png"), stack[0])
    (zoo / "pair" / "2.png").write_bytes(b"no picture")
    (zoo / "text.tif").write_text("no picture")
    tifffile.imwrite(zoo / "whole.tif", stack, photometric="minisblack", compression="zlib")
    (zoo / "cut.tif").write_bytes((zoo / "whole.tif").read_bytes()[:3000])
    tifffile.imwrite(zoo / "start.tif", stack, photometric="minisblack")
    (zoo / "start.tif").write_bytes((zoo / "start.tif").read_bytes()[:300])
    np.save(zoo / "stack.npy", stack)
    np.save(zoo / "one.npy", stack[:1])
    np.save(zoo / "none.npy", stack[:0])
    np.save(zoo / "flat.npy", stack[0])
    np.save(zoo / "bool.npy", stack > 100)
    np.save(zoo / "complex.npy", stack + 1j)
    np.save(zoo / "nan.npy", np.full((4, 3, 3), np.nan))
    np.save(zoo / "two_channels.npy", np.zeros((4, 3, 3, 2), np.uint8))
    np.save(zoo / "object.npy", np.array([{}, 1], object), allow_pickle=True)
    (zoo / "cut.npy").write_bytes((zoo / "stack.npy").read_bytes()[:3000])
    (zoo / "text.npz").write_text("no archive")
    np.savez(zoo / "none.npz")
    np.savez(zoo / "two.npz", a=stack, b=stack)
    np.savez(zoo / "object.npz", np.array([{}, 1], object))
    np.savez_compressed(zoo / "hole.npz", stack)
    hole = bytearray((zoo / "hole.npz").read_bytes())
    hole[3000:3100] = bytes(100)
    (zoo / "hole.npz").write_bytes(hole)
    return zoo


# arguments -> what the one line on stderr says; each names the thing and tells what to do or why
FAILURES: dict[str, list[str]] = {
    "nowhere.mp4": ["nowhere.mp4 does not exist", "check the name"],
    "film.mp4 nowhere.mp4": ["nowhere.mp4 does not exist", "check the name"],
    "nowhere*.mp4": ["no file matches nowhere*.mp4"],
    "x" * 300: ["x" * 300, "cannot be opened", "too long"],
    "empty": ["empty holds no images (0 other files)", "give a folder of pictures or a file"],
    "papers": ["papers holds no images (1 other files)", "give a folder of pictures"],
    "broken": ["broken: none of 3 image files can be read"],
    "broken/1.png": ["broken/1.png: none of 1 image files can be read"],
    "pair --every 1": ["at least 2 samples, and there is 1", "lower every=1"],
    "text.mp4": ["text.mp4 is no video that FFmpeg can read (Invalid data"],
    "text.txt": ["text.txt is a text file, no video"],
    "papers/notes.txt": ["papers/notes.txt is no video that FFmpeg can read"],
    "noise.avi": ["noise.avi is no video that FFmpeg can read"],
    "zero.mp4": ["zero.mp4 is empty"],
    "zero.npy": ["zero.npy is empty"],
    "zero.tif": ["zero.tif is empty"],
    "sound.mp4": ["sound.mp4 has no video stream", "give the file with the pictures"],
    "cut.mp4": ["cut.mp4 is no video that FFmpeg can read"],
    "fifo.mp4": ["fifo.mp4 is no file", "- for raw frames on standard input"],
    "/dev/null": ["/dev/null is no file", "camera:0"],
    "text.tif": ["text.tif is no TIFF that can be read", "is it whole?"],
    "cut.tif --every 1": ["cut.tif is damaged", "is it whole?"],
    "start.tif --every 1": ["start.tif is damaged, only 0 pages", "is it whole?"],
    "one.npy --every 1": ["at least 2 samples, and there is 1", "lower every=1"],
    "none.npy": ["none.npy has shape (0, 16, 24): it holds no frame"],
    "flat.npy": ["flat.npy has shape (16, 24): a stack is (T, H, W)"],
    "bool.npy": ["type bool is no frame: give uint8 or uint16"],
    "complex.npy": ["type complex128 is no frame: give uint8 or uint16"],
    "nan.npy --every 1": ["a float64 frame holds values that are no numbers: replace them first"],
    "two_channels.npy": ["shape (3, 3, 2) is no frame: give (H, W), or (H, W, 3)"],
    "object.npy": ["object.npy is no NumPy file that can be read"],
    "cut.npy": ["cut.npy is no NumPy file that can be read"],
    "text.npz": ["text.npz is no NumPy file that can be read"],
    "none.npz": ["none.npz holds 0 arrays: save just one"],
    "two.npz": ["two.npz holds 2 arrays (a, b)", "save just one"],
    "object.npz": ["object.npz is no NumPy file that can be read"],
    "hole.npz": ["hole.npz is no NumPy file that can be read"],
    "film.mp4": ["at least 2 samples, and there are 0", "lower every=100, or widen the range"],
    "film.mp4 --every 46": ["at least 2 samples, and there is 1", "lower every=46"],
    "film.mp4 --every 1 --start 60": ["at least 2 samples, and there are 0", "widen the range"],
    "film.mp4 --every 1 --start 5f --end 6f": ["at least 2 samples, and there is 1"],
    "film.mp4 --every 1 --roi 0,0,97,72": ["roi=0,0,97,72 reaches outside the frame of 96x72", "X+W may be 96"],
    "film.mp4 --every 1 --roi 90,0,10,10": ["roi=90,0,10,10 reaches outside the frame of 96x72"],
    "stack.npy --every 1 --start 1.5": ["start=1.5 s needs frame times", "use a frame number, 2700f"],
    "stack.npy --every 1 --duration 1.5": ["needs frame times", "use end with a frame number"],
    "film.mp4 --every 1 -o film.mp4": ["film.mp4 cannot be written to", "is a file", "-o"],
    "film.mp4 --every 1 -o film.mp4/deep/er": ["film.mp4/deep/er cannot be written to", "film.mp4 is a file", "-o"],
    "film.mp4 --every 1 -o /proc/results": ["/proc/results cannot be written to", "give another folder with -o"],
    f"film.mp4 --every 1 -o new/{'x' * 300}": ["cannot be written to (File name too long)", "another folder with -o"],
    "camera:77": ["camera:77 cannot be opened", "is it there, and free?"],
    "camera:lens": ["camera:lens is no camera: give camera:0"],
    "http://127.0.0.1:9/ --duration 1": ["http://127.0.0.1:9/ cannot be opened"],
    "- --size 9999999x9999999 --pix gray": ["9999999x9999999 is no size of a frame", "268,435,456 pixels"],
}

WRONG_USAGE: dict[str, str] = {
    "film.mp4 --roi 0,0,10": "roi=",
    "film.mp4 --roi a,b,c,d": "roi='a'",
    "film.mp4 --roi 0,0,10,0": "roi=0,0,10,0 is no rectangle",
    "film.mp4 --roi=-1,0,10,10": "roi=-1,0,10,10 is no rectangle",
    "film.mp4 --preset unheard": "'unheard' is not one of 'default', 'cassette'",
    "film.mp4 --start soon": "start='soon': must be seconds",
    "film.mp4 --start=-1": "start='-1': must be seconds",
    "film.mp4 --end 1:2:3:4": "end='1:2:3:4': must be seconds",
    "film.mp4 --start 5 --end 3": "end=3.0 is not after start=5.0",
    "film.mp4 --start 5f --end 5f": "end=5f is not after start=5f",
    "film.mp4 --end 5 --duration 3": "end and duration exclude each other",
    "film.mp4 --duration 0": "duration=0.0",
    "film.mp4 --duration nan": "duration=nan",
    "film.mp4 --every 0": "every=0",
    "film.mp4 --every few": "'few' is not a valid integer",
    "film.mp4 --max-samples 1": "max_samples=1",
    "film.mp4 --max-samples 65536": "max_samples=65536",
    "film.mp4 --threshold -1": "threshold='-1'",
    "film.mp4 --threshold nan": "threshold='nan'",
    "film.mp4 --keep best": "'best' is not one of 'recent', 'spread'",
    "film.mp4 --fill red": "'red' is not one of",
    "film.mp4 --depth 10": "'10' is not one of '8', '16'",
    "film.mp4 --device tpu": "device='tpu': no such device",
    "film.mp4 --frobnicate": "No such option",
    "film.mp4 --size 4x4": "--size and --pix describe raw frames on standard input",
    "-": "needs --size WxH and --pix",
    "- --size 4x4": "needs --size WxH and --pix",
    "- film.mp4 --size 4x4 --pix gray": "stands alone",
    "- --size 4 --pix gray": "--size 4: give width and height in pixels",
    "- --size 0x4 --pix gray": "--size 0x4: give width and height in pixels",
    "- --size ²x4 --pix gray": "--size ²x4: give width and height in pixels",
    "- --size 4x4 --pix rgb": "'rgb' is not one of 'bgr24', 'gray', 'gray16le'",
    "": "Missing argument 'SOURCE...'",
}


def one_line(err: str) -> str:
    """The only line on stderr."""
    assert "Traceback" not in err
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("device: "))  # no failure yet
    assert err.endswith("\n") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("arguments", FAILURES, ids=lambda text: text[:60])
def test_failures(
    arguments: str, zoo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 1, one line that says what and why, and the folder as it was."""
    monkeypatch.chdir(tmp_path)
    for path in zoo.iterdir():
        (tmp_path / path.name).symlink_to(path)
    before = sorted(tmp_path.rglob("*"))
    given = arguments.split()
    output = [] if "-o" in given else ["-o", "deep/er/results"]
    assert main(["estimate", *given, *output]) == 1
    told = capfd.readouterr()
    line = one_line(told.err)
    assert line.startswith("gpu-bgstat: ")
    for part in FAILURES[arguments]:
        assert part in line
    assert told.out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", WRONG_USAGE, ids=lambda text: text[:60])
def test_wrong_usage(
    arguments: str, zoo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 2, how the command is used, and one line that says what is wrong; nothing is made."""
    monkeypatch.chdir(zoo)
    assert main(["estimate", *arguments.split(), "-o", str(tmp_path / "results")]) == 2
    told = capfd.readouterr()
    *usage, error = told.err.splitlines()
    assert usage[0].startswith("Usage: gpu-bgstat estimate ") and "--help" in usage[1]
    assert error.startswith("Error: ") and WRONG_USAGE[arguments] in error
    assert "Traceback" not in told.err and told.out == ""
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", ["nowhere.mp4", "text.mp4", "stack.npy --start 1.5", "film.mp4 --roi 0,0,97,72"])
def test_plan_fails_as_estimate_does(
    arguments: str, zoo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(zoo)
    assert main(["plan", *arguments.split()]) == 1
    assert one_line(capfd.readouterr().err).startswith("gpu-bgstat: ")


def test_a_gpu_that_is_not_there(zoo: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`gpu` never falls back silently; where there is an engine and a device, there is nothing to refuse."""
    code = main(["estimate", str(zoo / "film.mp4"), "--every", "1", "--device", "gpu", "-o", str(tmp_path / "results")])
    told = capfd.readouterr()
    if code == 0:
        pytest.skip("this machine has a GPU that works")
    assert code == 1
    line = one_line(told.err)
    assert "device=gpu" in line or "looking for devices" in line
    assert not any(tmp_path.iterdir())


def test_without_a_gpu_auto_still_works(zoo: Path, tmp_path: Path) -> None:
    given = [str(zoo / "film.mp4"), "--every", "1", "--device", "auto", "--quiet"]
    assert main(["estimate", *given, "-o", str(tmp_path)]) == 0


# --- standard input and output that are not there ------------------------------------------------------------------


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], text=True, check=False, timeout=60, **options)


def test_a_closed_standard_input(tmp_path: Path) -> None:
    script = f"exec {sys.executable} -m gpu_bgstat estimate - --size 4x4 --pix gray -o {tmp_path}/results <&-"
    done = subprocess.run(["sh", "-c", script], text=True, check=False, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert "standard input is closed" in one_line(done.stderr)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("given", [b"", b"12345"])
def test_standard_input_ends_before_one_frame(given: bytes, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "estimate", "-", "--size", "4x4", "--pix", "gray", "-o", str(tmp_path / "results")],
        input=given,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "standard input ended before one whole frame of 16 bytes" in one_line(done.stderr.decode())
    assert not any(tmp_path.iterdir())


def test_a_full_standard_output(zoo: Path) -> None:
    """The JSON cannot be written: that is a failure, not a success."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run(["plan", str(zoo / "film.mp4"), "--json"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "standard output cannot be written (No space left on device)" in one_line(done.stderr)


def test_a_reader_that_goes_away(zoo: Path) -> None:
    """As in `gpu-bgstat plan film.mp4 | head -c 0`: no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = run(["plan", str(zoo / "film.mp4")], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


# --- output that cannot be written ---------------------------------------------------------------------------------


def test_a_full_disk(zoo: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The results of an earlier run stay, and no draft lies around."""
    (small_disk / "background_est.png").write_bytes(b"earlier")
    (small_disk / "report.json").write_bytes(b"earlier too")
    before = tree(small_disk)
    assert main(["estimate", str(zoo / "film.mp4"), "--every", "1", "-o", str(small_disk), "--quiet"]) == 1
    line = one_line(capfd.readouterr().err)
    assert str(small_disk) in line and "No space left on device" in line
    assert tree(small_disk) == before


def test_the_demo_on_a_full_disk(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seconds", "2", "-o", str(small_disk / "new"), "--quiet"]) == 1
    assert "No space left on device" in one_line(capfd.readouterr().err)
    assert not any(small_disk.iterdir())


def test_a_read_only_folder(zoo: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Read-only for root too."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for folder in (small_disk, small_disk / "new"):
        assert main(["estimate", str(zoo / "film.mp4"), "--every", "1", "-o", str(folder)]) == 1
        line = one_line(capfd.readouterr().err)
        assert f"{folder} cannot be written to (Read-only file system): give another folder with -o" in line


def test_files_that_may_not_grow(zoo: Path, tmp_path: Path) -> None:
    """The system refuses after 4 KiB, in the middle of the first result; this runs without mounting, too."""
    output = tmp_path / "results"
    done = run(
        ["estimate", str(zoo / "film.mp4"), "--every", "1", "-o", str(output), "--quiet"],
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 1
    assert "cannot be written (File too large)" in one_line(done.stderr)
    assert not output.exists()


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_folder_where_a_result_should_be(
    name: str, zoo: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All results are replaced, or none."""
    for other in OUTPUTS:
        (tmp_path / other).write_bytes(b"earlier")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    before = tree(tmp_path)
    assert main(["estimate", str(zoo / "film.mp4"), "--every", "1", "-o", str(tmp_path), "--quiet"]) == 1
    assert f"{name} is a folder" in one_line(capfd.readouterr().err)
    assert tree(tmp_path) == before


def test_an_unreadable_file(tmp_path: Path) -> None:
    """Permissions do not bind root, so the command runs as nobody."""
    if os.geteuid():
        pytest.skip("only root can become nobody")
    path = tmp_path / "film.mp4"
    Arena(width=32, height=32).film(path, 5)
    path.chmod(0)
    script = (
        "import os, sys\nfrom gpu_bgstat.cli import main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(['plan', sys.argv[1]]))"
    )
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], text=True, check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert "Permission denied" in one_line(done.stderr)


# --- from Python ---------------------------------------------------------------------------------------------------


def grey(value: int = 0, shape: tuple[int, ...] = (4, 5)) -> Image:
    return np.full(shape, value, np.uint8)


NAN = np.array([[np.nan, 1.0], [2.0, 3.0]])
FROM_PYTHON: dict[str, tuple[Callable[[], Any], type[BgstatError], str]] = {
    "a number": (lambda: 5, SourceError, "int is no source: give a path, an array, or frames"),
    "None": (lambda: None, SourceError, "NoneType is no source"),
    "an empty list": (list, TooFewSamplesError, "at least 2 samples, and there are 0"),
    "an empty tuple": (tuple, TooFewSamplesError, "at least 2 samples, and there are 0"),
    "an empty generator": (lambda: iter(()), TooFewSamplesError, "at least 2 samples, and there are 0"),
    "one frame": (lambda: [grey()], TooFewSamplesError, "at least 2 samples, and there is 1"),
    "a list of numbers": (lambda: [1, 2, 3], FrameError, r"shape \(\) is no frame"),
    "bytes": (lambda: b"frames", FrameError, r"shape \(\) is no frame"),
    "paths and frames": (lambda: [Path("a.png"), grey()], FrameError, "is no frame"),
    "ragged rows": (lambda: [[[1, 2], [3]]] * 3, FrameError, "frame 0 is no array"),
    "bool": (lambda: [grey() > 0] * 3, FrameError, "type bool is no frame: give uint8 or uint16"),
    "objects": (lambda: [np.full((2, 2), None)] * 3, FrameError, "type object is no frame"),
    "strings": (lambda: [np.full((2, 2), "x")] * 3, FrameError, "type <U1 is no frame"),
    "dates": (lambda: [np.zeros((2, 2), "M8[s]")] * 3, FrameError, "is no frame"),
    "a bool stack": (lambda: np.zeros((5, 4, 4), bool), FrameError, "type bool is no frame"),
    "an object stack": (lambda: np.full((5, 4, 4), None), FrameError, "type object is no frame"),
    "NaN in the first frame": (lambda: [NAN] * 3, FrameError, "holds values that are no numbers: replace them"),
    "NaN later": (lambda: [grey(), grey(), np.full((4, 5), np.inf)], FrameError, "that are no numbers: replace them"),
    "an empty frame": (lambda: [grey(shape=(0, 4))] * 3, FrameError, r"shape \(0, 4\) is no frame"),
    "two channels": (lambda: [grey(shape=(4, 4, 2))] * 3, FrameError, r"shape \(4, 4, 2\) is no frame"),
    "a row": (lambda: [grey(shape=(4,))] * 3, FrameError, r"shape \(4,\) is no frame"),
    "a picture as a stack": (grey, SourceError, r"array has shape \(4, 5\): a stack is \(T, H, W\)"),
    "an empty stack": (lambda: grey(shape=(0, 4, 5)), SourceError, "it holds no frame"),
    "a stack without pixels": (lambda: grey(shape=(4, 0, 5)), FrameError, "is no frame"),
    "a name with a null": (lambda: "a\0b.mp4", SourceError, "cannot be opened"),
}


@pytest.mark.parametrize("case", FROM_PYTHON)
def test_from_python(case: str) -> None:
    """A BgstatError with one line that says what is wrong."""
    make, kind, text = FROM_PYTHON[case]
    with pytest.raises(kind, match=text) as caught:
        estimate(make(), Config(every=1))
    assert "\n" not in str(caught.value)


def test_an_error_of_the_users_own_generator_comes_through() -> None:
    def failing() -> Iterator[Image]:
        yield grey()
        raise RuntimeError("the camera's driver gave up")

    with pytest.raises(RuntimeError, match="driver gave up"):
        estimate(failing(), Config(every=1))


def test_frames_whose_size_changes_are_resized_and_told() -> None:
    rng = np.random.default_rng(1)
    sizes = [(12, 16), (12, 16), (24, 32), (12, 16), (6, 9)]
    frames = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    background = estimate(frames, Config(every=1, method="median"))
    expected = np.stack([cv2.resize(frame, (16, 12), interpolation=cv2.INTER_LINEAR) for frame in frames])
    assert np.array_equal(background.background, np.median(expected, axis=0).astype(np.uint8))
    assert background.run.resized == 2
    assert any(
        text.startswith("2 samples had another size than the first and were resized to it: frame ")
        for text in background.run.warnings
    )


def test_frames_that_turn_grey_or_colour_in_the_middle() -> None:
    """Grey joins a colour recording as grey colour, and colour a grey one by COLOR_BGR2GRAY."""
    rng = np.random.default_rng(2)
    colour = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    plain = rng.integers(0, 256, (8, 9), dtype=np.uint8)
    first_colour = estimate([colour, plain, plain], Config(every=1)).background
    assert np.array_equal(first_colour, np.median([colour, *2 * [np.dstack(3 * [plain])]], axis=0).astype(np.uint8))
    first_grey = estimate([plain, colour, colour], Config(every=1)).background
    turned = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    assert np.array_equal(first_grey, np.median([plain, turned, turned], axis=0).astype(np.uint8))


def test_values_beyond_the_type_are_clipped_and_told() -> None:
    frames = [np.full((3, 4), value) for value in (-5.5, 300.0, 1000.0)]
    background = estimate(frames, Config(every=1))
    assert (background.background == 255).all() and background.background.dtype == np.uint8
    assert "frames of type float64 were clipped to the range of uint8 and truncated" in background.run.warnings
