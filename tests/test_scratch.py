"""Samples in a file: whatever is put in comes out, tile by tile; and memory limits, from sizes and from real groups."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_bgstat import BackgroundEstimator, Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.backends import scratch
from gpu_bgstat.backends.memory import free_host_bytes, in_memory
from gpu_bgstat.backends.room import Room
from gpu_bgstat.backends.scratch import Layout, Scratch, opened
from gpu_bgstat.config import memory_size
from gpu_bgstat.errors import ConfigError, ScratchError
from gpu_bgstat.frames import FrameSpec

MB = 10**6


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 40),
    wide=st.booleans(),
    slots=st.integers(1, 9),
    tile_bytes=st.sampled_from([1, 5000, 40_000, 1 << 28]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_what_is_put_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    wide: bool,
    slots: int,
    tile_bytes: int,
    seed: int,
) -> None:
    """As strips, as any range of values, and after moves, against a plain array."""
    rng = np.random.default_rng(seed)
    dtype: Any = np.dtype("uint16" if wide else "uint8")
    spec = FrameSpec(width * 100, height, 1, dtype)
    frames = rng.integers(0, np.iinfo(dtype).max + 1, (slots, *spec.shape), dtype)
    block = frames.reshape(slots, -1).copy()
    layout = Layout(slots, spec, tile_bytes)
    path = tmp_path_factory.mktemp("scratch") / "samples"
    with closing(Scratch(opened(path), "here", layout)) as file:
        for slot in rng.permutation(slots):
            file.put(int(slot), frames[slot])
        source, target = (int(slot) for slot in rng.integers(0, slots, 2))
        file.move(source, target)
        block[target] = block[source]
        file.sync()
        count = int(rng.integers(1, slots + 1))
        parts = list(file.strips(count))
        np.testing.assert_array_equal(np.concatenate([strip for _, strip in parts], axis=1), block[:count])
        assert [part.start for part, _ in parts[1:]] == [part.stop for part, _ in parts[:-1]]
        begin = int(rng.integers(0, spec.values))
        values = range(begin, int(rng.integers(begin, spec.values)) + 1)
        got: Any = np.empty((count, len(values)), dtype)
        file.read(count, values, got)
        np.testing.assert_array_equal(got, block[:count, values.start : values.stop])
    assert path.stat().st_size == layout.bytes


@given(slots=st.integers(1, 65_535), width=st.integers(1, 8000), height=st.integers(1, 6000), colour=st.booleans())
def test_a_layout_wastes_little(slots: int, width: int, height: int, colour: bool) -> None:
    spec = FrameSpec(width, height, 3 if colour else 1, np.dtype(np.uint8))
    layout = Layout(slots, spec)
    least = spec.bytes * slots
    assert least <= layout.bytes <= 2 * least + layout.tiles * slots * 2 * 4096
    assert layout.part(layout.tiles - 1).stop == spec.values
    assert layout.row_bytes * slots <= scratch.TILE_BYTES + slots * 4096


@pytest.mark.parametrize("keep", ["recent", "spread"])
def test_samples_in_a_file_give_the_same_result(device: str, keep: Any, tmp_path: Path) -> None:
    """Overwriting, thinning and moving as well."""
    frames = list(Arena(width=160, height=120).frames(60))
    got = []
    with opened(tmp_path / "samples") as file:
        for kept in (None, file):
            with BackgroundEstimator(Config(every=1, max_samples=25, device=device, keep=keep), kept=kept) as estimator:
                for frame in frames:
                    estimator.collect(frame)
                got.append(estimator.finalize())
    assert file.closed and (tmp_path / "samples").stat().st_size >= 25 * frames[0].size
    assert got[0].samples == got[1].samples
    for field in ("background", "variance", "stable", "heatmap"):
        np.testing.assert_array_equal(getattr(got[0], field), getattr(got[1], field))


def test_a_small_limit_says_where_the_samples_are(tmp_path: Path) -> None:
    """In a process of its own: the limit is about what the process has already."""
    code = f"""
import logging, sys
import numpy as np
from gpu_bgstat import Config, estimate
from gpu_bgstat.backends.memory import own_bytes
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
frames = np.random.default_rng(1).integers(0, 256, (400, 240, 320, 3), np.uint8)
want = estimate(frames, Config(every=1, device="cpu"))
limit = own_bytes() + 60_000_000
got = estimate(frames, Config(every=1, device="cpu", memory_limit=limit, scratch={str(tmp_path)!r}))
assert np.array_equal(got.background, want.background) and np.array_equal(got.variance, want.variance)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"samples: in a file in {tmp_path}, 9" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given_, want",
    [("4GB", 4 * 10**9), ("512MiB", 1 << 29), ("1.5 gb", 1_500_000_000), (4096, 4096), ("2k", 2000), ("1TiB", 1 << 40)],
)
def test_sizes(given_: Any, want: int) -> None:
    assert memory_size(given_) == want
    assert Config(memory_limit=given_).memory_limit == want


@pytest.mark.parametrize("given_", ["", "GB", "-4GB", "4 XB", "1e9", "nan", True, 0, "4GBGB", "0", [], 1.5])
def test_what_is_no_size(given_: Any) -> None:
    with pytest.raises(ConfigError, match="memory_limit="):
        Config(memory_limit=given_)


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.binary(max_size=9)))
def test_any_size_is_read_or_refused(given_: Any) -> None:
    try:
        assert memory_size(given_) >= 0
    except ValueError:
        return


def test_a_limit_below_the_results_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1.0 MB of memory \(memory_limit\) are too little: .* raise the limit"):
        estimate(np.zeros((3, 9, 9), np.uint8), Config(every=1, memory_limit="1MB"))


@pytest.mark.parametrize("make, reason", [(None, "No such file or directory"), ("file", "cannot"), ("dark", "written")])
def test_a_scratch_folder_that_is_none(tmp_path: Path, make: str | None, reason: str) -> None:
    folder = tmp_path / "folder"
    if make == "file":
        folder.write_text("")
    elif make == "dark":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        folder.mkdir(mode=0o500)
    with pytest.raises(ScratchError, match=reason):
        Room(0, folder).scratch(3, FrameSpec(9, 9, 1, np.dtype(np.uint8)))


def test_disks_without_room_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScratchError, match=r"has \S+ GB free, and the samples take \S+ GB: make room there"):
        Room(0, tmp_path).place(1 << 60)
    with pytest.raises(ScratchError, match=r"no folder has room for a scratch file \(.*\): give one with scratch"):
        Room(0).place(1 << 60)


def test_a_disk_that_fills_up_is_an_error_and_no_crash(
    megabyte_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else takes the room after it was checked."""
    spec = FrameSpec(300, 200, 3, np.dtype(np.uint8))
    assert in_memory(megabyte_disk)
    monkeypatch.setattr(logging.getLogger("gpu_bgstat"), "propagate", True)  # the command may have been there
    caplog.set_level(logging.WARNING, "gpu_bgstat")
    with closing(Room(0, megabyte_disk).scratch(5, spec)) as file:
        assert "disk is in memory itself" in caplog.text
        (megabyte_disk / "other").write_bytes(bytes(500_000))
        with pytest.raises(ScratchError, match=r"in .*disk cannot be written \(No space left on device\): make room"):
            for slot in range(5):
                file.put(slot, np.ones(spec.shape, np.uint8))


def group(root: Path, version: int, path: str, limit: str, usage: int, files: int) -> None:
    """A control group as the kernel shows it."""
    if version == 1:
        folder, names = (
            root / "sys/fs/cgroup/memory" / path,
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        )
    else:
        folder, names = root / "sys/fs/cgroup" / path, ("memory.max", "memory.current", "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"{names[2]}inactive_file {files}\n{names[2]}active_file 1000000\nanon 5\n")


@pytest.mark.parametrize(
    "version, lines, groups, want",
    [
        (2, "0::/", {}, 9000),
        (2, "0::/", {"": ("2000000000", 500, 99)}, 1600),
        (2, "0::/a/b", {"a/b": ("max", 1, 0), "a": ("3000000000", 1000, 0)}, 2001),
        (2, "0::/../outside", {"": ("4000000000", 1000, 0)}, 3001),
        (1, "4:memory:/a/b\n0::/", {"a/b": ("2000000000", 1500, 0), "a": ("9223372036854771712", 9, 0)}, 501),
        (1, "4:cpu,memory:/hidden", {"": ("1000000000", 400, 0)}, 601),
        (1, "4:memory:/a", {"a": ("1000000000", 2000, 0)}, 0),
        (2, "nonsense", {}, 9000),
    ],
)
def test_control_groups_count(
    tmp_path: Path, version: int, lines: str, groups: dict[str, tuple[str, int, int]], want: int
) -> None:
    """In MB: the limit of the tightest group around, less what it uses, and the files that it can drop."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {9000 * MB // 1024} kB\n")
    (tmp_path / "proc/self/cgroup").write_text(lines)
    for path, (limit, usage, files) in groups.items():
        group(tmp_path, version, path, limit, usage * MB, files * MB)
    free = free_host_bytes(tmp_path)
    assert free is not None and abs(free - want * MB) <= MB


def test_a_real_control_group(tmp_path: Path) -> None:
    """What this process would have inside one with 300 MB."""
    for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        made = Path(root) / f"bgstat-test-{os.getpid()}"
        try:
            made.mkdir()
            (made / name).write_text("300000000")
        except OSError:
            continue
        try:
            code = "from gpu_bgstat.backends.memory import free_host_bytes; print(free_host_bytes())"
            shell = f"echo $$ > {made}/cgroup.procs && exec {sys.executable} -c '{code}'"
            done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
            assert 100 * MB < int(done.stdout) < 300 * MB
        finally:
            made.rmdir()
        return
    pytest.skip("no control group can be made here")
