"""The host's own memory and disks, and how sizes are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
_V2 = ("memory.max", "memory.current", "inactive_file", "active_file")
_IN_MEMORY = {"tmpfs", "ramfs"}


def free_host_bytes(root: Path = _ROOT) -> int | None:
    """What this process may still take: of the system's memory without swapping, and of each control group it is in.

    Of a control group (v1 and v2) what is left of its limit counts, and the cached files that it can drop. None if the
    system does not tell. `root` is where /proc and /sys are found.
    """
    known = [left for left in (_available(root), *_left_in_groups(root)) if left is not None]
    return max(0, min(known)) if known else None


def _available(root: Path) -> int | None:
    """Linux: MemAvailable."""
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_in_groups(root: Path) -> Iterator[int | None]:
    """What each control group around this process leaves it, up to the root of those that can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        within = PurePosixPath(path.lstrip("/"))
        if ".." in within.parts:  # a group outside the container's view
            within = PurePosixPath()
        for group in (within, *within.parents):
            yield _left(mount / group, names)


def _left(group: Path, names: tuple[str, str, str, str]) -> int | None:
    """None where there is no limit, or a group that cannot be seen from inside a container."""
    try:
        limit, usage = ((group / name).read_text().strip() for name in names[:2])
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max" or int(limit) >= 1 << 60:  # v1 says "no limit" by a number near 2**63
        return None
    return int(limit) - int(usage) + sum(int(stat.get(name, 0)) for name in names[2:])


def own_bytes() -> int:
    """Memory that this process holds by itself (anonymous, resident); 0 if the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def in_memory(folder: Path) -> bool:
    """Whether files in this folder lie in memory (tmpfs, ramfs)."""
    try:
        device = folder.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts:
        place, _, kind = line.partition(" - ")
        if place.split()[2] == wanted and kind.split()[0] in _IN_MEMORY:
            return True
    return False


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk; where folders cannot be synced, at once."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def size_text(size: int) -> str:
    """Bytes for people: "1.3 MB", "15.0 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
