"""Pictures decoded by NVDEC, through FFmpeg and PyAV: they stay on the device until `to_bgr` fetches one as BGR.

    file ► opened ► decode ► picture (NV12, on the device) ► to_bgr ► (H, W, 3) in memory
                             most are dropped here           kernel, one copy

Not run on hardware yet. `trial.choose` tells whether a file may be decoded this way.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available

from gpu_bgstat.backends import kernels
from gpu_bgstat.backends.colors import WEIGHTS, Coefficients, coefficients
from gpu_bgstat.backends.cuda import TO_HOST, Block, cuda_errors, cupy, visible
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import Image

_FIRST_PYAV = 17  # the first that leaves pictures on the device and hands them over by DLPack
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_PIXELS = ("yuv420p", "yuvj420p")


def unavailable() -> str:
    """Why the hardware cannot decode here, as far as that shows without trying; empty if nothing speaks against it."""
    if int(av.__version__.partition(".")[0]) < _FIRST_PYAV:
        return f"PyAV {av.__version__} is too old: it takes {_FIRST_PYAV} or newer"
    if "cuda" not in hwdevices_available():
        return "this FFmpeg was built without CUDA"
    try:
        visible()
    except DeviceError as error:
        return str(error)
    return ""


def unfit(picture: Any) -> str:
    """Why pictures such as this, decoded by the CPU or by the hardware, are not for the kernel; empty if they are.

    swscale converts all of these in another way than the kernel does.
    """
    pixels = picture.format.name
    if pixels == "cuda":
        pixels = {"nv12": "yuv420p"}.get(picture.sw_format.name, picture.sw_format.name)
    if pixels not in _PIXELS:
        return f"its pixels are {pixels}, not 8-bit 4:2:0"
    if picture.width % 2 or picture.height % 2:
        return f"its size {picture.width}×{picture.height} is odd"
    if picture.interlaced_frame:
        return "it is interlaced"
    if int(picture.colorspace) not in WEIGHTS:
        return f"its colour matrix has the number {int(picture.colorspace)}, which has no conversion"
    return ""


def opened(path: Path, device: int) -> Any:
    """The container, whose video this device decodes and nobody else; raises DeviceError if it cannot.

    Each container has a decoder of its own, so several threads may have one each. Drop a picture soon: while it
    lives, it keeps a surface of the decoder. With more than one of FFmpeg's threads it would need more of them.
    """
    advice = "in a container, set NVIDIA_DRIVER_CAPABILITIES=all"
    try:
        hardware = HWAccel("cuda", str(device), allow_software_fallback=False, is_hw_owned=True)
        container: Any = av.open(f"file:{path}", hwaccel=hardware)
    except (av.error.FFmpegError, OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"gpu:{device} cannot decode {path.name} ({reason}): {advice}") from error
    streams = container.streams.video
    if not streams or not streams[0].codec_context.is_hwaccel:
        container.close()
        raise DeviceError(f"gpu:{device} cannot decode {path.name} (FFmpeg has no such decoder): use --decode cpu")
    streams[0].codec_context.thread_count = 1
    return container


def to_bgr(picture: Any) -> Image:
    """The picture of a container that was `opened`, as (H, W, 3) uint8 in memory, with the bits of the CPU's way.

    Raises DeviceError for a picture that is `unfit`, or has not been decoded by the hardware.
    """
    if picture.format.name != "cuda":
        raise DeviceError(f"a {picture.format.name} picture was not decoded by the hardware: use --decode cpu")
    if reason := unfit(picture):
        raise DeviceError(f"a picture cannot be taken from the hardware: {reason}: use --decode cpu")
    # The bare capsule, since CuPy would name a stream, and PyAV refuses all but None.
    luma, chroma = (cupy().from_dlpack(plane.__dlpack__()) for plane in picture.planes)
    return convert(luma, chroma, coefficients(int(picture.colorspace), picture.color_range == _FULL_RANGE))


def convert(luma: Any, chroma: Any, colors: Coefficients) -> Image:
    """NV12 planes on a device, (H, W) and (H/2, W/2, 2) CuPy arrays of uint8 with padded rows, as BGR in memory.

    Works on the legacy default stream, because FFmpeg fills its pictures there.
    """
    cp = cupy()
    height, width = luma.shape
    fits = chroma.shape == (height // 2, width // 2, 2) and luma.strides[1:] == (1,) and chroma.strides[1:] == (2, 1)
    even = (width, height, luma.data.ptr, chroma.data.ptr, luma.strides[0], chroma.strides[0])
    bytewise = luma.dtype == chroma.dtype == np.uint8 and luma.device == chroma.device
    if not (fits and bytewise) or any(number % 2 or number <= 0 for number in even):
        raise ValueError(f"planes {luma.shape} and {chroma.shape} by {even}: not what the kernel takes")
    device = luma.device.id
    kernel = kernels.load("nv12_bgr", device, 0)
    picture = np.empty((height, width, 3), np.uint8)
    with (
        cuda_errors(f"gpu:{device}, converting a picture of {width}×{height}"),
        cp.cuda.Device(device),
        cp.cuda.Stream.null as stream,
        closing(Block(picture.nbytes, device)) as out,
    ):
        planes = (luma.data.ptr, np.int64(luma.strides[0]), chroma.data.ptr, np.int64(chroma.strides[0]))
        arguments = (*planes, np.int32(width), np.int32(height), out.address, *map(np.int32, colors))
        kernel((-(-width // 64), -(-height // 16)), (32, 8), arguments)
        cp.cuda.runtime.memcpyAsync(picture.ctypes.data, out.address, out.size, TO_HOST, stream.ptr)
        stream.synchronize()
    return picture
