"""Stacks in files that are mapped into memory: of the disk, only the sampled frames are read.

Left to itself, the kernel reads ahead from a page that is touched, by 128 KiB or even megabytes, as the disk is set to.
So it is told that the map is read at random, and then which bytes are wanted, which it reads in one go.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from gpu_bgstat.frames import Image


def at_random(stack: Image) -> Image:
    """The same stack, marked as one whose frames `copy_frame` reads; left as it is if its frames lie scattered."""
    file = _map_of(stack)
    if file is not None and stack.flags.c_contiguous:
        file.madvise(mmap.MADV_RANDOM)
    return stack


def copy_frame(stack: Image, index: int) -> Image:
    """A copy of one frame, in the machine's byte order."""
    frame = stack[index]
    file = _map_of(stack)
    if file is not None and frame.flags.c_contiguous:
        start = frame.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
        begin = start - start % mmap.PAGESIZE
        file.madvise(mmap.MADV_WILLNEED, begin, start + frame.nbytes - begin)
    return np.array(frame, dtype=frame.dtype.newbyteorder("="))


def _map_of(stack: Image) -> Any:
    """The map behind a numpy.memmap; None for another array, or where the system takes no advice."""
    return getattr(stack, "_mmap", None) if hasattr(mmap, "MADV_WILLNEED") else None
