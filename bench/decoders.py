"""Ways to get certain frames out of a recording as pixels: this package's, the cassette's, and other people's.

A way calls `take(index, pixels)` for every wanted frame, in whichever order it likes, and keeps none.

The limit is the least that FFmpeg's decoders can do for these samples. The packets are in memory and it is known
beforehand which are needed: from each keyframe to the last sample that depends on it, reference frames and samples.

    packets   K r b r b r b r b K r b r ...      K keyframe, r reference, b non-reference frame
    samples             *   *
    decoded   K r . r . r b r b . . . .          the samples alone are converted to BGR
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import av
import cv2
import numpy as np
from av.codec import CodecContext
from av.video.reformatter import Interpolation, VideoReformatter

from gpu_bgstat import schedule
from gpu_bgstat.backends.tiles import cores
from gpu_bgstat.config import Config
from gpu_bgstat.frames import Image
from gpu_bgstat.sources import open_source


def _module(name: str) -> Any:
    """The module, or None; torchcodec says in three ways that torch or FFmpeg's libraries are missing."""
    with suppress(ImportError, OSError, RuntimeError):
        return importlib.import_module(name)
    return None


decord = _module("decord")
torchcodec = _module("torchcodec.decoders")

Take = Callable[[int, Image], None]

BATCH = 16  # frames at once from those that fill arrays: all frames of a recording need more memory than there is


@dataclass(frozen=True)
class Job:
    """`wanted` are frames, counted from 0; with `snap` they are the keyframes that this package chose."""

    path: Path
    width: int
    height: int
    every: int
    wanted: tuple[int, ...]
    keyframes: tuple[int, ...]  # all that the recording has
    snap: bool = False


def keyframes(path: Path) -> tuple[int, ...]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = {_stamp(packet) for packet in packets if packet.is_keyframe}
    shown = sorted(_stamp(packet) for packet in packets)
    return tuple(index for index, stamp in enumerate(shown) if stamp in keys)


def config(every: int, snap: bool) -> Config:
    return Config(every=every, method="median", **({"snap": "keyframe"} if snap else {}))  # no neighbours


def can_snap() -> bool:
    return "snap" in Config.model_fields


def ours(job: Job, take: Take) -> None:
    settings = config(job.every, job.snap)
    with closing(open_source(job.path, settings)) as source:
        for frame in source.read(schedule.plan(source.timeline, settings)):
            take(frame.index, frame.pixels)


def read(job: Job, take: Take) -> None:
    """What the cassette does: every frame to BGR, up to the end."""
    wanted, index = set(job.wanted), 0
    with closing(_Capture(job.path)) as capture:
        while (got := capture.video.read())[0]:
            if index in wanted:
                take(index, got[1])
            index += 1


def grab(job: Job, take: Take) -> None:
    """Every frame decoded, the wanted ones to BGR."""
    wanted, index = set(job.wanted), 0
    with closing(_Capture(job.path)) as capture:
        while capture.video.grab():
            if index in wanted:
                take(index, capture.video.retrieve()[1])
            index += 1


def pos_frames(job: Job, take: Take) -> None:
    with closing(_Capture(job.path)) as capture:
        for index in job.wanted:
            capture.video.set(cv2.CAP_PROP_POS_FRAMES, index)
            found, pixels = capture.video.read()
            if found:
                take(index, pixels)


class _Capture:
    def __init__(self, path: Path) -> None:
        self.video = cv2.VideoCapture(str(path))

    def close(self) -> None:
        self.video.release()


def with_decord(job: Job, take: Take) -> None:
    reader = decord.VideoReader(str(job.path))
    for first in range(0, len(job.wanted), BATCH):
        indices = job.wanted[first : first + BATCH]
        for index, pixels in zip(indices, reader.get_batch(indices).asnumpy(), strict=True):
            take(index, pixels)


def with_torchcodec(job: Job, take: Take) -> None:
    _torchcodec(job, take, "exact")


def torchcodec_approximate(job: Job, take: Take) -> None:
    """Trusts the header about the frame rate, and reads no packet beforehand."""
    _torchcodec(job, take, "approximate")


def _torchcodec(job: Job, take: Take, seek_mode: str) -> None:
    threads = cores()  # one, if nothing is said
    decoder = torchcodec.VideoDecoder(
        str(job.path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode=seek_mode
    )
    for first in range(0, len(job.wanted), BATCH):
        indices = job.wanted[first : first + BATCH]
        for index, pixels in zip(indices, decoder.get_frames_at(list(indices)).data.numpy(), strict=True):
            take(index, pixels)


def ffmpeg_select(job: Job, take: Take) -> None:
    choice = f"select='not(mod(n+1,{job.every}))'"
    _ffmpeg(job, take, job.wanted, ["-i", str(job.path), "-vf", choice])


def ffmpeg_keyframes(job: Job, take: Take) -> None:
    """All keyframes, more than are wanted if they are dense."""
    _ffmpeg(job, take, job.keyframes, ["-skip_frame", "nokey", "-i", str(job.path)])


def _ffmpeg(job: Job, take: Take, indices: tuple[int, ...], options: list[str]) -> None:
    command = ["ffmpeg", "-v", "error", "-nostdin", *options]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    wanted = set(job.wanted)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for index in indices:
            pixels = np.empty((job.height, job.width, 3), np.uint8)
            if process.stdout.readinto(pixels.reshape(-1)) != pixels.size:  # type: ignore[attr-defined]
                break
            if index in wanted:
                take(index, pixels)


class Chain:
    """The limit, prepared: the packets of a recording, and the runs of them that the samples need."""

    def __init__(self, job: Job) -> None:
        with av.open(str(job.path)) as container:
            stream: Any = container.streams.video[0]
            self._codec, self._extradata = stream.codec_context.codec.name, stream.codec_context.extradata
            packets = [packet for packet in container.demux(stream) if packet.size]
        shown = sorted(_stamp(packet) for packet in packets)
        self._wanted = {shown[index]: index for index in job.wanted}
        runs = sorted(self._find_runs(packets), key=lambda run: run[0] - run[1])  # the longest first
        self._runs = [packets[first:stop] for first, stop in runs]

    def _find_runs(self, packets: list[Any]) -> list[tuple[int, int]]:
        """Packets [first, stop) in the order of decoding; an open GOP's leading frames join it to the one before."""
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
        runs: list[tuple[int, int]] = []
        for place, packet in enumerate(packets):
            if _stamp(packet) not in self._wanted:
                continue
            key = bisect_right(keys, place) - 1
            while key and _stamp(packets[keys[key]]) > _stamp(packet):
                key -= 1
            first = keys[key]
            while runs and first < runs[-1][1]:
                first = min(first, runs.pop()[0])
            runs.append((first, place + 1))
        return runs

    def side_by_side(self, _: Job, take: Take) -> None:
        """As many decoders as there are cores, one thread each; the runs are dealt out."""
        queue: SimpleQueue[list[Any]] = SimpleQueue()
        for run in self._runs:
            queue.put(run)
        workers = min(cores(), len(self._runs))
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(self._decode, queue, 1, take) for _ in range(workers)]:
                done.result()

    def one_decoder(self, _: Job, take: Take) -> None:
        """One decoder with a thread for each core."""
        queue: SimpleQueue[list[Any]] = SimpleQueue()
        for run in self._runs:
            queue.put(run)
        self._decode(queue, cores(), take)

    def _decode(self, queue: SimpleQueue[list[Any]], threads: int, take: Take) -> None:
        context: Any = CodecContext.create(self._codec, "r")
        context.extradata = self._extradata
        context.thread_count, context.thread_type = threads, "FRAME" if threads > 1 else "NONE"
        reformatter = VideoReformatter()
        while True:
            try:
                packets = queue.get_nowait()
            except Empty:
                return
            for packet in [*packets, None]:
                sample = packet is None or _stamp(packet) in self._wanted
                context.skip_frame = "DEFAULT" if sample else "NONREF"
                for picture in context.decode(packet):
                    if picture.pts in self._wanted:
                        take(self._wanted[picture.pts], _pixels(reformatter, picture, threads))
            context.flush_buffers()


def _pixels(reformatter: VideoReformatter, picture: av.VideoFrame, threads: int) -> Image:
    """BGR without a copy of it, with swscale's bicubic filter as in OpenCV."""
    frame = reformatter.reformat(picture, format="bgr24", interpolation=Interpolation.BICUBIC, threads=threads)
    plane: Any = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return lines[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


def _stamp(packet: Any) -> int:
    """When the packet's frame is shown; AVI files tell only the order of decoding, which is the same in them."""
    return int(packet.dts if packet.pts is None else packet.pts)


@dataclass(frozen=True)
class Way:
    """`exact`: must give the pixels of `read`, bit for bit. `missing`: what to install first."""

    run: Callable[[Job, Take], None]
    exact: bool = False
    rgb: bool = False
    missing: str = ""


def _absent(name: str, found: object) -> str:
    return "" if found else f"{name} is not installed"


READ = "read"
OURS = "gpu_bgstat"
WAYS = {
    OURS: Way(ours, exact=True),
    READ: Way(read, exact=True),
    "grab": Way(grab, exact=True),
    "POS_FRAMES": Way(pos_frames),
    "decord": Way(with_decord, rgb=True, missing=_absent("decord", decord)),
    "torchcodec": Way(with_torchcodec, rgb=True, missing=_absent("torchcodec", torchcodec)),
    "torchcodec approx.": Way(torchcodec_approximate, rgb=True, missing=_absent("torchcodec", torchcodec)),
    "ffmpeg select": Way(ffmpeg_select, missing=_absent("ffmpeg", shutil.which("ffmpeg"))),
    "ffmpeg nokey": Way(ffmpeg_keyframes, missing=_absent("ffmpeg", shutil.which("ffmpeg"))),
}


def limits(job: Job) -> dict[str, Way]:
    """Two arrangements of the limit; the faster one counts."""
    chain = Chain(job)
    return {
        "limit, decoders": Way(chain.side_by_side, exact=True),
        "limit, threads": Way(chain.one_decoder, exact=True),
    }
