"""Plans from sizes alone: what is chosen, that it fits, and that the next one is smaller."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_bgstat.backends.placement import LINE_BYTES, Placement, placements
from gpu_bgstat.frames import FrameSpec

UHD = FrameSpec(3840, 2160, 3, np.dtype(np.uint8))
GB = 10**9


def kinds(free: list[tuple[int, int]], host: int | None = None, slots: int = 600) -> list[str]:
    return [placement.kind for placement in placements(UHD, slots, free, host)]


@pytest.mark.parametrize(
    "free, host, want",
    [
        ([(0, 24 * GB)], None, ["ring", "slabs", "slabs", "file", "file"]),
        ([(0, 12 * GB)], None, ["slabs", "slabs", "file", "file"]),
        ([(0, 12 * GB)], 10 * GB, ["file", "file"]),
        ([(1, 12 * GB), (0, 9 * GB)], 10 * GB, ["split", "file", "file"]),
        ([(1, 24 * GB), (0, 24 * GB)], 64 * GB, ["ring", "split", "slabs", "slabs", "file", "file"]),
        ([(0, 0)], None, []),
        ([], None, []),
    ],
)
def test_600_samples_of_4k_colour(free: list[tuple[int, int]], host: int | None, want: list[str]) -> None:
    """15 GB: on a device that has them, else over two, else in pinned memory if the host has it."""
    assert kinds(free, host) == want


def test_a_plan_tells_its_sizes() -> None:
    texts = [str(plan) for plan in placements(UHD, 600, [(1, 24 * GB), (0, 8 * GB)], None)]
    assert texts[0].startswith("one ring on gpu:1, 15.0 GB")
    pinned = "112.0 MB of pinned host memory"
    assert texts[1] == f"split by rows over gpu:1 (rows 0..1619, 11.2 GB), gpu:0 (rows 1620..2159, 3.8 GB); {pinned}"
    assert texts[2].startswith("14.9 GB of pinned host memory, streamed in slabs through gpu:1 (rows 0..1619, ")


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 3000),
    colour=st.booleans(),
    wide=st.booleans(),
    slots=st.integers(1, 65535),
    free=st.lists(st.integers(0, 40 * GB), min_size=1, max_size=4),
    host=st.one_of(st.none(), st.integers(0, 100 * GB)),
)
def test_every_plan_fits_and_covers_the_frame(
    width: int, height: int, colour: bool, wide: bool, slots: int, free: list[int], host: int | None
) -> None:
    spec = FrameSpec(width, height, 3 if colour else 1, np.dtype(np.uint16 if wide else np.uint8))
    plans = list(placements(spec, slots, list(enumerate(free)), host))
    for plan in plans:
        check(plan, spec, slots, free, host)
    for earlier, later in pairwise(plans):
        needs = {share.device: share.device_bytes for share in earlier.shares}
        smaller = all(share.device_bytes < needs.get(share.device, 1 << 62) for share in later.shares)
        assert smaller or (earlier.kind, later.kind) == ("slabs", "file")


def check(plan: Placement, spec: FrameSpec, slots: int, free: list[int], host: int | None) -> None:
    rows = [row for share in plan.shares for row in (share.rows.start, share.rows.stop)]
    assert rows[0] == 0 and rows[-1] == spec.height and rows[1:-1:2] == rows[2::2]
    for share in plan.shares:
        assert share.device_bytes <= free[share.device]
        assert share.values == len(share.rows) * spec.width * spec.channels
        assert share.pitch_bytes % LINE_BYTES == 0 and share.pitch_bytes >= share.values * spec.dtype.itemsize
        assert share.chunk_values % LINE_BYTES == 0
        assert share.result_bytes >= min(share.chunk_values, share.values) * (4 + 2 * spec.dtype.itemsize)
        assert share.home == {"slabs": "pinned", "file": "file"}.get(plan.kind, "device")
        whole = slots * share.values * spec.dtype.itemsize
        assert {"device": share.device_bytes, "pinned": share.pinned_bytes, "file": whole}[share.home] >= whole
    if host is not None and plan.kind in ("slabs", "file"):
        assert sum(share.pinned_bytes for share in plan.shares) <= host
