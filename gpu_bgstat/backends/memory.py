"""The host's own memory, and how sizes are told."""

from __future__ import annotations

import os
from pathlib import Path


def free_host_bytes() -> int | None:
    """What the system could give without swapping (Linux: MemAvailable); None if it does not tell."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def size_text(size: int) -> str:
    """Bytes for people: "1.3 MB", "15.0 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
