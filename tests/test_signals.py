"""SIGINT and SIGTERM: each ends the command in time, a second one at once, and programs keep their own handlers.

That Ctrl-C and SIGTERM end an estimate at each of its stages stands in test_command.py and test_remote.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_command import MODULE, Child, listening, tree

from gpu_bgstat import interrupts
from gpu_bgstat.interrupts import LIMIT_S, Terminated, uninterrupted
from gpu_bgstat.outputs import OUTPUTS

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = {signal.SIGINT: b"interrupted\n", signal.SIGTERM: b"terminated\n"}


def caught(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(mask >> (number - 1) & 1)


class Script:
    """A Python program, started and at the line that prints `ready`."""

    def __init__(self, text: str, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started = 0.0
        self.wait_for(b"ready\n")

    def wait_for(self, line: bytes) -> None:
        assert self.process.stdout is not None
        while (said := self.process.stdout.readline()) != line:
            assert said, self.process.communicate()[1]

    def send(self, number: signal.Signals) -> None:
        self.started = self.started or time.monotonic()
        self.process.send_signal(number)

    def end(self) -> tuple[int, bytes, float]:
        """Exit code, stderr, and seconds since the first signal."""
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err, time.monotonic() - self.started


# --- the command's two signals -------------------------------------------------------------------------------------

LOST = """
import time
from gpu_bgstat import interrupts
interrupts.install()
with interrupts.raised():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:  # as in a destructor, or a library that waits on
        print("lost", flush=True)
        time.sleep(60)
"""

DEAF = """
import ctypes
from gpu_bgstat import interrupts
interrupts.install()
with interrupts.raised():
    lock = ctypes.create_string_buffer(64)
    take = ctypes.CDLL(None).pthread_mutex_lock
    take(lock)
    try:
        print("ready", flush=True)
        take(lock)  # for ever, and no signal wakes it
    except KeyboardInterrupt:  # it came before that
        take(lock)
"""


@pytest.mark.parametrize("text", [LOST, DEAF], ids=["lost", "deaf"])
def test_the_end_comes_in_time_whatever_hangs(text: str, stop: signal.Signals) -> None:
    script = Script(text)
    script.send(stop)
    code, err, took = script.end()
    assert (code, err) == (CODES[stop], WORDS[stop])
    assert LIMIT_S - 0.1 < took < 5


@pytest.mark.parametrize("second", CODES)
@pytest.mark.parametrize("text", [LOST, DEAF], ids=["lost", "deaf"])
def test_a_second_signal_ends_at_once(text: str, stop: signal.Signals, second: signal.Signals) -> None:
    script = Script(text)
    script.send(stop)
    time.sleep(0.3)  # what comes sooner, and is the same, is an echo
    script.send(second)
    code, err, took = script.end()
    assert (code, err) == (CODES[second], WORDS[second])
    assert took < 1


def test_nobody_needs_to_read_the_last_line(stop: signal.Signals) -> None:
    """stderr is a pipe, and full: the end does not wait for a reader."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    process = subprocess.Popen([sys.executable, "-c", LOST], stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(stop)
    assert process.wait(10) == CODES[stop]
    process.stdout.close()
    os.close(reading)


@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_while_python_is_importing(wait_s: float, stop: signal.Signals, tmp_path: Path) -> None:
    """From the moment the command listens, some 50 ms after its start: libraries are loaded for half a second more."""
    child = Child(["estimate", "nothing", "-o", tmp_path / "new"])
    while not caught(child.process, signal.SIGTERM):
        assert child.process.poll() is None
    time.sleep(wait_s)
    if child.process.poll() is None:
        child.process.send_signal(stop)
    code = child.end()
    if b"nothing does not exist" in child.told:  # it was quicker; as the interpreter ends, it hears nothing any more
        assert code in (1, -stop)
    else:
        assert (code, child.told.lstrip()) == (CODES[stop], WORDS[stop])
    assert b"Traceback" not in child.told
    assert tree(tmp_path) == {}


def test_timeout_sends_sigterm_twice(tmp_path: Path) -> None:
    """coreutils' timeout: to the process, and at once to its group. That is one signal: things are put away."""
    if not shutil.which("timeout"):
        pytest.skip("there is no timeout(1)")
    reading, writing = os.pipe()
    raw = ["--size", "9x9", "--pix", "gray"]
    with subprocess.Popen(
        [
            "timeout",
            "--preserve-status",
            "--kill-after=20",
            "3",
            *MODULE,
            "estimate",
            "-",
            *raw,
            "-o",
            tmp_path / "new",
        ],
        stdin=reading,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(reading)
        while not (tmp_path / "new").exists():
            assert process.poll() is None
        _, err = process.communicate(timeout=30)
    os.close(writing)
    assert (process.returncode, err.lstrip()) == (143, WORDS[signal.SIGTERM])
    assert tree(tmp_path) == {}


def test_plan_while_a_url_is_silent(stop: signal.Signals) -> None:
    with listening() as server:
        child = Child(["plan", f"http://127.0.0.1:{server.getsockname()[1]}/film.mp4"])
        connection, _ = server.accept()
        with connection:
            child.stop(stop)


# --- while the outputs are written ---------------------------------------------------------------------------------

SLOW_DISK = """
import os, sys, time
def slowly(call):
    def slow(*arguments, **options):
        print(call.__name__, flush=True)
        time.sleep(0.1)
        return call(*arguments, **options)
    return slow
os.fsync, os.replace = slowly(os.fsync), slowly(os.replace)
from gpu_bgstat.__main__ import main
print("ready", flush=True)
sys.argv[1:] = ["estimate", sys.argv[1], "--every", "9", "-o", sys.argv[2], "--quiet"]
sys.exit(main())
"""


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    folder.mkdir()
    for name in OUTPUTS:
        (folder / name).write_bytes(b"earlier: " + name.encode())
    return folder


def test_while_drafts_are_written(film: Path, earlier: Path, stop: signal.Signals) -> None:
    before = tree(earlier)
    script = Script(SLOW_DISK, film, earlier)
    for _ in range(3):
        script.wait_for(b"fsync\n")
    script.send(stop)
    code, err, took = script.end()
    assert (code, err.lstrip()) == (CODES[stop], WORDS[stop]) and took < 5
    assert tree(earlier) == before


def test_while_drafts_are_renamed(film: Path, earlier: Path, stop: signal.Signals) -> None:
    """The rest is renamed before the signal is heard: all results are new, and it takes less than 5 s."""
    script = Script(SLOW_DISK, film, earlier)
    script.wait_for(b"replace\n")
    script.send(stop)
    code, err, took = script.end()
    assert (code, err.lstrip()) == (CODES[stop], WORDS[stop]) and took < 5
    assert sorted(path.name for path in earlier.iterdir()) == sorted(OUTPUTS)
    assert not any(path.read_bytes().startswith(b"earlier") for path in earlier.iterdir())


def test_a_second_signal_does_not_wait_for_renames(film: Path, earlier: Path, stop: signal.Signals) -> None:
    """As after kill -9: some drafts stay, and the next run clears them away."""
    script = Script(SLOW_DISK, film, earlier)
    script.wait_for(b"replace\n")
    script.send(signal.SIGTERM)
    script.wait_for(b"replace\n")
    time.sleep(0.3)
    script.send(stop)
    assert script.end()[0] == CODES[stop]
    left = sorted(path.name for path in earlier.iterdir())
    assert set(OUTPUTS) < set(left)
    done = subprocess.run([*MODULE, "estimate", film, "--every", "9", "-o", earlier, "--quiet"], check=False)
    assert done.returncode == 0
    assert sorted(path.name for path in earlier.iterdir()) == sorted(OUTPUTS)


# --- programs that use the library ---------------------------------------------------------------------------------


def test_the_library_leaves_signals_alone() -> None:
    text = """
import signal, threading
before = [signal.getsignal(number) for number in signal.valid_signals()]
import gpu_bgstat.public, gpu_bgstat.cli, gpu_bgstat.interrupts
assert [signal.getsignal(number) for number in signal.valid_signals()] == before
assert signal.set_wakeup_fd(-1) == -1
assert threading.active_count() == 1
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_sigterm_ends_a_program_without_handlers_after_the_block() -> None:
    text = """
import time
from gpu_bgstat.interrupts import uninterrupted
with uninterrupted():
    print("ready", flush=True)
    time.sleep(1)
    print("done", flush=True)
print("never", flush=True)
"""
    script = Script(text)
    script.send(signal.SIGTERM)
    out, _ = script.process.communicate(timeout=30)
    assert (out, script.process.returncode) == (b"done\n", -signal.SIGTERM)


def test_a_block_is_finished_before_a_signal_is_heard() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted(), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("block")
    assert done == ["block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_does_not_wait_for_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("block")
    assert not done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_is_called_once_for_each_signal() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)


def test_terminated_is_an_interrupt_with_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupts.farewell(Terminated()) == 143
    assert interrupts.farewell(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "terminated\ninterrupted\n"
