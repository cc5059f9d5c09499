"""Whether the hardware may decode: it must give the bits that decoding on the CPU gives, tried on this machine.

Tried are the conversion to BGR, for every colour matrix; a film made here, once for each codec and process; and the
first picture of the recording itself. Standards fix every bit of these codecs, so a decoder that differs is at fault.
Damage is another matter: each decoder mends it in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from gpu_bgstat.backends import cpu, nvdec
from gpu_bgstat.backends.checkup import Finding
from gpu_bgstat.backends.colors import WEIGHTS, coefficients
from gpu_bgstat.backends.cuda import cuda_errors, cupy
from gpu_bgstat.backends.gpu import chosen
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import Image

ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9"}
_SIZE = (200, 152)  # no multiple of 16, so that something is cropped; enough for every decoder
_PICTURES = 24
_NAME = "hardware decoding"


def choose(path: Path, device: str) -> int:
    """The GPU that decodes this video file, where decode="nvdec" asks for one; `device` as in Config.

    Raises DeviceError with the reason if none may.
    """
    reason = nvdec.unavailable()
    if not reason:
        index = chosen(device if device.startswith("gpu") else "gpu")[0].index
        reason = _doubt(path, index)
        if not reason:
            return index
    raise DeviceError(f"decode=nvdec cannot be had for {path}: {reason}: use --decode cpu")


def _doubt(path: Path, device: int) -> str:
    """Why this device should not decode the file; empty if nothing speaks against it."""
    try:
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            codec = stream.codec_context.name
            picture = next(container.decode(stream), None)
        if picture is None:
            return "no picture could be decoded"
        if reason := nvdec.unfit(picture):
            return reason
        good, detail = trusted(device, codec)
        return differences(path, device, 1) if good else detail
    except (av.error.FFmpegError, DeviceError) as error:
        return str(error)


@cache
def trusted(device: int, codec: str) -> tuple[bool, str]:
    """Whether the device's pictures of this codec equal the CPU's, all of a film made here; and a word on that."""
    if codec not in ENCODERS:
        return False, f"only {', '.join(ENCODERS)} are decoded by hardware, and this is {codec}"
    try:
        reason = wrong_kernel(device) or other_swscale() or try_codec(device, codec)
    except DeviceError as error:
        return False, str(error)
    return not reason, reason or f"{_PICTURES} pictures equal the CPU's, bit for bit"


def try_codec(device: int, codec: str) -> str:
    """What is different in the pictures of a film made here; raises DeviceError if it cannot be decoded."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trial.mkv"
        try:
            film(path, codec)
        except (av.error.FFmpegError, ValueError) as error:
            raise DeviceError(f"no {codec} film can be made here to try it ({error})") from error
        return differences(path, device)


def film(path: Path, codec: str) -> None:
    """A film of a texture that drifts, brightens, and has a corner of noise; in three groups of pictures."""
    rng = np.random.default_rng(3)
    width, height = _SIZE
    texture = cv2.resize(rng.integers(0, 256, (60, 50), np.uint8), (width, height * 3 // 2))
    quiet = {"x265-params": "log-level=none"} if codec == "hevc" else {}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(ENCODERS[codec], rate=30, options={"g": "9", **quiet})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(_PICTURES):
            planes: Any = np.roll(texture, 3 * number, axis=1) // 2 + np.uint8(5 * number)
            planes[:40, :40] = rng.integers(0, 256, (40, 40))
            container.mux(stream.encode(VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def differences(path: Path, device: int, most: int | None = None) -> str:
    """How the device's pictures of this file differ from the CPU's, of the first `most` or of all; empty if not."""
    try:
        with av.open(f"file:{path}") as soft, closing(nvdec.opened(path, device)) as hard:
            pairs = zip_longest(soft.decode(video=0), hard.decode(video=0))
            for number, (ours, theirs) in enumerate(islice(pairs, most)):
                if ours is None or theirs is None:
                    return f"the CPU and the hardware decode different numbers of pictures: {number} and more"
                want, got = _by_swscale(ours), nvdec.to_bgr(theirs)
                wrong = int((got != want).sum()) if got.shape == want.shape else got.size
                if wrong:
                    return f"{wrong} of {want.size} values of picture {number} differ from the CPU's"
    except av.error.FFmpegError as error:
        raise DeviceError(f"gpu:{device} cannot decode {path.name} ({error})") from error
    return ""


def wrong_kernel(device: int) -> str:
    """Where the kernel's conversion differs from its specification, on random pictures; empty if nowhere."""
    cp = cupy()
    for (colorspace, full), (luma, chroma) in _samples():
        colors = coefficients(colorspace, full)
        doing = f"gpu:{device}, trying the conversion to BGR"
        with cuda_errors(doing), cp.cuda.Device(device), cp.cuda.using_allocator(None):  # no pool keeps the memory
            got = nvdec.convert(cp.asarray(luma), cp.asarray(chroma), colors)
        if wrong := int((got != cpu.bgr(luma, chroma, colors)).sum()):
            return f"{wrong} of {got.size} values of a converted picture are wrong (colour matrix {colorspace})"
    return ""


@cache
def other_swscale() -> str:
    """Where FFmpeg converts otherwise on this machine than the kernel's specification; empty if nowhere."""
    for (colorspace, full), (luma, chroma) in _samples():
        planes = [luma.reshape(-1), chroma[:, :, 0].reshape(-1), chroma[:, :, 1].reshape(-1)]
        width = luma.shape[1]
        frame: Any = VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, width), format="yuv420p")
        frame.colorspace, frame.color_range = colorspace, 2 if full else 1
        if not np.array_equal(_by_swscale(frame), cpu.bgr(luma, chroma, coefficients(colorspace, full))):
            return f"FFmpeg converts colour matrix {colorspace} in another way on this machine"
    return ""


def _samples() -> Iterator[tuple[tuple[int, bool], tuple[Image, Image]]]:
    """Every colour matrix and range, each with a random picture in NV12."""
    rng = np.random.default_rng(5)
    for colorspace in WEIGHTS:
        for full in (False, True):
            luma = rng.integers(0, 256, (32, 96), np.uint8)
            yield (colorspace, full), (luma, rng.integers(0, 256, (16, 48, 2), np.uint8))


def _by_swscale(picture: VideoFrame) -> Image:
    """The pixels that a source makes of a picture of the CPU's."""
    return picture.to_ndarray(format="bgr24", interpolation=Interpolation.BICUBIC)


def missing() -> Finding | None:
    """Says that the CPU decodes, where nothing can be tried. That is no fault."""
    reason = nvdec.unavailable()
    return Finding(_NAME, True, f"not here, the CPU decodes: {reason}") if reason else None


def findings(device: int) -> Iterator[Finding]:
    """The conversion, and each codec. A codec that the device cannot decode is no fault; other bits are."""
    reason = wrong_kernel(device)
    bad = f"{reason}: do not use this device, and please report it"
    yield Finding("NV12 to BGR", not reason, bad if reason else "all colour matrices as specified, bit for bit")
    if reason := reason or other_swscale():
        yield Finding(_NAME, True, f"not used, the CPU decodes: {reason}")
        return
    for codec in ENCODERS:
        name = f"{_NAME}, {codec}"
        try:
            reason = try_codec(device, codec)
        except DeviceError as error:
            yield Finding(name, True, f"not here, the CPU decodes: {error}")
            continue
        equal = f"{_PICTURES} pictures equal to the CPU's decoding, bit for bit"
        yield Finding(name, not reason, f"{reason}: use --decode cpu, and please report it" if reason else equal)
