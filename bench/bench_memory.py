"""600 samples of 4K colour, 15 GB, within 2 GB of memory: what it costs in time against a run without a limit.

    python bench/bench_memory.py [--quick] [--turns 3] [--json FILE]

Each run is a process of its own, on the CPU. The limited one is put into a control group with that limit where one can
be made (root, cgroup v1 or v2): the system then kills it if it needs more. In any case its anonymous memory and its
dirty pages are measured from outside, all the time. Both runs take turns and must give the same bits.
--quick: 600 samples of 640x360 within 250 MB; it shows that the benchmark works, its times mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat import Config, estimate
from gpu_bgstat.config import memory_size

FULL = (600, 2160, 3840, 3), "2GB"
QUICK = (600, 360, 640, 3), "250MB"
MOST_RATIO = 2.0
# where control groups are -> the file that takes the limit
_GROUPS = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}


@dataclass
class Row:
    """One run. `seconds` are those of the estimate; the peak, in bytes, is of the whole process."""

    limit: str | None
    seconds: float
    anonymous_and_dirty: int
    in_group: bool
    digest: str
    timings_s: dict[str, float]


class Frames:
    """Frames that cost little to make: a window of a noisy texture, at another place each time, and a disc."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        rng = np.random.default_rng(7)
        self._texture = rng.integers(60, 200, int(np.prod(shape[1:])) + 9973, np.uint8)

    def __len__(self) -> int:
        return self._shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        count, height, width, _ = self._shape
        values = int(np.prod(self._shape[1:]))
        for number in range(count):
            start = number * 31 % 7 * 3
            frame = self._texture[start : start + values].reshape(self._shape[1:]).copy()
            left = number * width // (2 * count)
            frame[height // 4 : height // 2, left : left + width // 8] = 20
            yield frame


def child(shape: tuple[int, ...], limit: str | None) -> None:
    """One estimate, told as JSON."""
    started = time.perf_counter()
    background = estimate(Frames(shape), Config(every=1, device="cpu", memory_limit=limit or "1TB"))
    seconds = time.perf_counter() - started
    digest = hashlib.sha256(background.background.tobytes() + background.variance.tobytes()).hexdigest()
    print(json.dumps({"seconds": seconds, "digest": digest, "timings_s": background.run.timings_s}))


@contextmanager
def group(limit: int) -> Iterator[Path | None]:
    """A control group with this limit; None where none can be made."""
    for root, limit_name in _GROUPS.items():
        made = Path(root) / f"bgstat-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / limit_name).write_text(str(limit))
        except OSError:
            made.rmdir()
            continue
        try:
            yield made
        finally:
            for _ in range(100):
                with suppress(OSError):
                    made.rmdir()
                    break
                time.sleep(0.05)
        return
    yield None


def run(shape: tuple[int, ...], limit: str | None) -> Row:
    """One run in a process of its own, watched from outside."""
    command = [sys.executable, __file__, "--child", json.dumps([shape, limit])]
    with group(memory_size(limit) if limit else 1 << 50) as cell:
        inside = cell if limit else None
        prefix = ["sh", "-c", f'echo $$ > {inside}/cgroup.procs && exec "$@"', "sh"] if inside else []
        process = subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE)
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_and_dirty(process.pid))
            time.sleep(0.05)
        assert process.stdout is not None
        answer = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the run within {limit} ended with {process.returncode}: killed for its memory?")
    return Row(limit=limit, anonymous_and_dirty=peak, in_group=inside is not None, **json.loads(answer))


def anonymous_and_dirty(pid: int) -> int:
    """Bytes of a process that the system cannot drop: anonymous ones, and pages of files that are not written yet."""
    sizes: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, *_ = line.split()
            sizes[name] = int(size) * 1024
    # anonymous pages are dirty as well: the greater of both has all that counts but clean anonymous ones
    return max(sizes.get("Anonymous:", 0), sizes.get("Private_Dirty:", 0) + sizes.get("Shared_Dirty:", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        shape, within = json.loads(options.child)
        child(tuple(shape), within)
        return
    shape, limit = QUICK if options.quick else FULL
    rows: list[Row] = []
    for _ in range(1 if options.quick else options.turns):
        rows += [run(shape, limit), run(shape, None)]
        for row in rows[-2:]:
            print(
                f"{row.limit or 'no limit':>8}  {row.seconds:6.1f} s  {row.anonymous_and_dirty / 1e9:5.2f} GB  "
                f"{'in a control group' if row.in_group else ''}  {row.timings_s}",
                flush=True,
            )
    if len({row.digest for row in rows}) > 1:
        raise SystemExit("the runs gave different results")
    ratio = statistics.median(
        limited.seconds / free.seconds for limited, free in zip(rows[::2], rows[1::2], strict=True)
    )
    most = max(row.anonymous_and_dirty for row in rows if row.limit)
    print(f"within {limit}: {ratio:.2f} times the time without a limit, at most {most / 1e9:.2f} GB")
    result: dict[str, Any] = {"shape": shape, "limit": limit, "ratio": ratio, "rows": [asdict(row) for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if most > memory_size(limit) or (ratio > MOST_RATIO and not options.quick):
        raise SystemExit(f"missed: at most {limit} and {MOST_RATIO} times the time")


if __name__ == "__main__":
    main()
