"""Hardware decoding, as far as it goes without hardware: the conversion's bits, what is refused, and the trial.

Where a picture of the hardware's is needed, `Picture` stands in: planes of a picture that the CPU decoded, on the
device, with PyAV's interface.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from conftest import STANDIN, only_standin
from numpy.typing import NDArray

from gpu_bgstat import Config, doctor, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.backends import cpu, nvdec, trial
from gpu_bgstat.backends.colors import WEIGHTS, coefficients
from gpu_bgstat.backends.cuda import cupy, visible
from gpu_bgstat.errors import ConfigError, DeviceError

pytestmark = pytest.mark.skipif(int(av.__version__.partition(".")[0]) < 17, reason="needs PyAV 17")
Bytes = NDArray[np.uint8]
gpu = [pytest.mark.gpu, pytest.mark.usefixtures("memory_comes_back")]
MATRICES = [(colorspace, full) for colorspace in WEIGHTS for full in (False, True)]
SIZES = [(2, 2), (66, 18), (200, 152), (98, 50), (1366, 6)]  # also not of whole warps, blocks, and vectors of swscale


def noise(width: int, height: int) -> tuple[Bytes, Bytes]:
    """NV12: luma (H, W) and chroma (H/2, W/2, 2)."""
    rng = np.random.default_rng(width * height)
    chroma = rng.integers(0, 256, (height // 2, width // 2, 2), np.uint8)
    return rng.integers(0, 256, (height, width), np.uint8), chroma


def frame(luma: Bytes, chroma: Bytes, colorspace: int = 2, full: bool = False) -> Any:
    """A yuv420p picture, as the CPU decodes it."""
    made = VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
    for plane, values in zip(made.planes, (luma, chroma[:, :, 0], chroma[:, :, 1]), strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = values
        plane.update(padded.tobytes())
    made.colorspace, made.color_range = colorspace, 2 if full else 1
    return made


def by_swscale(picture: Any) -> Bytes:
    pixels: Bytes = picture.to_ndarray(format="bgr24", interpolation=Interpolation.BICUBIC)
    return pixels


def nv12(picture: Any) -> tuple[Bytes, Bytes]:
    """The planes of a yuv420p picture, repacked."""
    planes = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in picture.planes
    ]
    return planes[0], np.stack(planes[1:], axis=2)


# --- the arithmetic, against swscale -------------------------------------------------------------------------------


@pytest.mark.parametrize("colorspace, full", [(number, full) for number, full in MATRICES if number not in (5, 6)])
def test_levels_are_those_of_swscale(colorspace: int, full: bool) -> None:
    """All 256³ combinations. (5 and 6 have the numbers of 2.) Integers: no tolerance."""
    every = np.arange(256, dtype=np.uint8)
    luma = np.tile(every.reshape(2, 128), (256, 1))  # one row of 64 pairs of chroma has the 256 levels of luma
    chroma = np.empty((256, 64, 2), np.uint8)
    chroma[:, :, 0] = every[:, None]
    for v in every:
        chroma[:, :, 1] = v
        want = by_swscale(frame(luma, chroma, colorspace, full))
        np.testing.assert_array_equal(cpu.bgr(luma, chroma, coefficients(colorspace, full)), want)


@pytest.mark.parametrize("width, height", SIZES)
def test_sizes_do_not_matter(width: int, height: int) -> None:
    luma, chroma = noise(width, height)
    np.testing.assert_array_equal(cpu.bgr(luma, chroma, coefficients(1, False)), by_swscale(frame(luma, chroma, 1)))


def test_the_matrices_are_those_of_the_standards() -> None:
    """BT.601 in limited range, as ITU-R BT.601 says: R = 1.164 (Y - 16) + 1.596 (V - 128), and so on."""
    got = coefficients(6, False)
    assert got.black == 16
    np.testing.assert_allclose(
        np.array(got[1:]) / 8192, [1.1644, 2.0172, -0.3918, -0.8130, 1.5960], atol=1 / 8192
    )  # rounded to 13 bits
    assert coefficients(6, True)[:2] == (0, 8192)


def test_opencvs_own_conversion_is_another() -> None:
    """cv2.cvtColor rounds sums instead of products, lifts luma below 16, and knows BT.601 in limited range alone."""
    luma, chroma = noise(200, 152)
    luma = np.maximum(luma, 16)
    ours = cpu.bgr(luma, chroma, coefficients(2, False)).astype(int)
    theirs = cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2BGR_NV12).astype(int)
    apart = np.abs(ours - theirs)
    assert apart.max() == 3 and apart.any(axis=2).mean() > 0.9


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels, width, height, colorspace, reason",
    [
        ("yuv420p", 64, 48, 2, ""),
        ("yuvj420p", 64, 48, 5, ""),
        ("yuv422p", 64, 48, 2, "its pixels are yuv422p"),
        ("yuv444p", 64, 48, 2, "its pixels are yuv444p"),
        ("yuv420p10le", 64, 48, 2, "its pixels are yuv420p10le"),
        ("nv12", 64, 48, 2, "its pixels are nv12"),
        ("gray", 64, 48, 2, "its pixels are gray"),
        ("yuv420p", 64, 47, 2, "its size 64×47 is odd"),
        ("yuv420p", 63, 48, 2, "its size 63×48 is odd"),
        ("yuv420p", 64, 48, 10, "its colour matrix has the number 10"),
        ("yuv420p", 64, 48, 8, "its colour matrix has the number 8"),
    ],
)
def test_what_is_unfit(pixels: str, width: int, height: int, colorspace: int, reason: str) -> None:
    picture: Any = VideoFrame(width, height, pixels)
    picture.colorspace = colorspace
    assert nvdec.unfit(picture).startswith(reason) and bool(nvdec.unfit(picture)) == bool(reason)


def test_interlaced_pictures_are_unfit_because_swscale_converts_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "fields.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(frame(*noise(64, 48))))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    assert nvdec.unfit(picture) == "it is interlaced"
    assert (by_swscale(picture) != cpu.bgr(*nv12(picture), coefficients(2, False))).any()


def test_why_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "hwdevices_available", lambda: ["vaapi"])
    assert nvdec.unavailable() == "this FFmpeg was built without CUDA"
    monkeypatch.setattr(av, "__version__", "16.1.0")
    assert nvdec.unavailable() == "PyAV 16.1.0 is too old: it takes 17 or newer"


def test_pyavs_planes_are_as_the_kernel_takes_them() -> None:
    """PyAV describes NV12 the same way in memory and on the device."""
    luma, chroma = (np.from_dlpack(plane) for plane in VideoFrame(200, 152, "nv12").planes)
    assert luma.shape == (152, 200) and luma.strides[1] == 1 and luma.strides[0] > 200
    assert chroma.shape == (76, 100, 2) and chroma.strides[1:] == (2, 1)


# --- the choice ----------------------------------------------------------------------------------------------------


def test_another_codec_is_never_decoded_by_the_hardware(tmp_path: Path) -> None:
    path = tmp_path / "arena.avi"
    Arena(width=96, height=72).film(path, 3, "mpeg4")
    with pytest.raises(DeviceError, match=r"decode=nvdec cannot be had for .*arena.avi: .* use --decode cpu"):
        trial.choose(path, "auto")


def test_only_who_asks_for_it_gets_it(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` stays on the CPU, and calls nothing of CUDA to decode."""
    monkeypatch.setattr(nvdec, "visible", lambda: pytest.fail("CUDA was called"))
    monkeypatch.setattr(trial, "choose", lambda *arguments: pytest.fail("hardware was looked for"))
    for decode in ("auto", "cpu"):
        run = estimate(film, Config(every=10, decode=decode, device="cpu")).run
        assert run.decoding["way"] == "planned" and "nvdec" not in str(run.decoding)


def test_nvdec_or_an_error(film: Path) -> None:
    if not nvdec.unavailable() and not STANDIN:
        pytest.skip("there may be hardware here")
    with pytest.raises(DeviceError, match=r"decode=nvdec cannot be had for .*: use --decode cpu"):
        estimate(film, Config(every=10, decode="nvdec"))
    with pytest.raises(ConfigError, match="decode=nvdec gives 8 bits"):
        estimate(film, Config(every=10, decode="nvdec", depth=16))


@pytest.mark.parametrize("codec", trial.ENCODERS)
def test_the_film_has_what_a_decoder_can_get_wrong(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "trial.mkv"
    trial.film(path, codec)
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == codec
    assert len(pictures) == 24 and [picture.key_frame for picture in pictures].count(True) >= 3
    assert len({by_swscale(picture).tobytes() for picture in pictures}) == 24
    assert not any(nvdec.unfit(picture) for picture in pictures)


def test_the_doctor_does_not_mind_that_it_is_missing() -> None:
    told = [finding for finding in doctor.examine("auto") if finding.name.startswith(("hardware", "NV12"))]
    assert told and all(finding.well for finding in told)
    if STANDIN or nvdec.unavailable():
        assert "the CPU decodes: " in told[-1].detail


# --- on the device -------------------------------------------------------------------------------------------------


def padded(values: Bytes, extra: int) -> Any:
    """On the device, with `extra` bytes of rubbish behind each row."""
    cp = cupy()
    rows = values.reshape(len(values), -1)
    whole = np.full((len(rows), rows.shape[1] + extra), 0xA5, np.uint8)
    whole[:, : rows.shape[1]] = rows
    there = cp.asarray(whole)
    return cp.ndarray(values.shape, cp.uint8, there.data, strides=(whole.shape[1], *values.strides[1:]))


class Plane:
    """Hands an array over as PyAV does: a capsule of DLPack's first kind, and no stream but None."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, *, stream: None = None) -> Any:
        if stream is not None:
            raise NotImplementedError("CUDA stream synchronization is not supported.")
        return self._array.__dlpack__(stream=None)


class Picture:
    """A picture as the hardware would give it, of one that the CPU decoded."""

    def __init__(self, decoded: Any, pixels: str = "nv12") -> None:
        self.format, self.sw_format = SimpleNamespace(name="cuda"), SimpleNamespace(name=pixels)
        self.width, self.height, self.interlaced_frame = decoded.width, decoded.height, decoded.interlaced_frame
        self.colorspace, self.color_range = decoded.colorspace, decoded.color_range
        self.values = tuple(np.ascontiguousarray(plane) for plane in nv12(decoded))

    @property
    def planes(self) -> tuple[Plane, ...]:
        return tuple(Plane(padded(values, 56)) for values in self.values)


class Decoder:
    """A container that was `opened`, with a fault in its pictures."""

    def __init__(self, path: Path, device: int, spoil: Callable[[list[Picture]], object]) -> None:
        with av.open(str(path)) as container:
            self._pictures = [Picture(picture) for picture in container.decode(video=0)]
        spoil(self._pictures)

    def decode(self, video: int) -> Iterator[Picture]:
        return iter(self._pictures)

    def close(self) -> None:
        self._pictures.clear()


@pytest.fixture(autouse=True)
def no_pool(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests' own arrays are freed at once."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    with cupy().cuda.using_allocator(None):
        yield


class TestDevice:
    pytestmark = gpu

    @pytest.mark.parametrize("colorspace, full", MATRICES)
    def test_every_matrix(self, colorspace: int, full: bool) -> None:
        luma, chroma = noise(198, 34)
        got = nvdec.convert(padded(luma, 58), padded(chroma, 58), coefficients(colorspace, full))
        np.testing.assert_array_equal(got, by_swscale(frame(luma, chroma, colorspace, full)))

    @pytest.mark.parametrize("extra", [0, 2, 312])
    @pytest.mark.parametrize("width, height", SIZES)
    def test_every_size_and_pitch(self, width: int, height: int, extra: int) -> None:
        luma, chroma = noise(width, height)
        got = nvdec.convert(padded(luma, extra), padded(chroma, extra), coefficients(1, True))
        np.testing.assert_array_equal(got, cpu.bgr(luma, chroma, coefficients(1, True)))

    @pytest.mark.skipif(int(cv2.__version__.partition(".")[0]) < 5, reason="OpenCV 4 has another FFmpeg")
    def test_a_film_gives_the_pixels_of_opencv(self, tmp_path: Path) -> None:
        path = tmp_path / "arena.mp4"
        Arena(width=202, height=150, animals=2).film(path, 12)
        video = cv2.VideoCapture(str(path))
        with av.open(str(path)) as container:
            for picture in container.decode(video=0):
                np.testing.assert_array_equal(nvdec.to_bgr(Picture(picture)), video.read()[1])
        assert not video.read()[0]

    def test_several_threads_at_once(self) -> None:
        pictures = [frame(*noise(64, height)) for height in (16, 32, 48, 64, 80, 96)]
        with ThreadPoolExecutor(3) as pool:
            for picture, got in zip(pictures, pool.map(nvdec.to_bgr, map(Picture, pictures)), strict=True):
                np.testing.assert_array_equal(got, by_swscale(picture))

    @pytest.mark.parametrize(
        "luma, chroma",
        [((4, 6), (2, 3)), ((4, 6), (2, 2, 2)), ((5, 6), (2, 3, 2)), ((4, 5), (2, 2, 2)), ((0, 6), (0, 3, 2))],
    )
    def test_planes_that_the_kernel_does_not_take(self, luma: tuple[int, ...], chroma: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="not what the kernel takes"):
            nvdec.convert(cupy().zeros(luma, np.uint8), cupy().zeros(chroma, np.uint8), coefficients(1, True))

    @pytest.mark.parametrize("change", [lambda a: a.astype(np.uint16), lambda a: a[:, ::2], lambda a: a.T])
    def test_luma_that_the_kernel_does_not_take(self, change: Callable[[Any], Any]) -> None:
        luma = change(cupy().zeros((8, 8), np.uint8))
        chroma = cupy().zeros((luma.shape[0] // 2, luma.shape[1] // 2, 2), np.uint8)
        with pytest.raises(ValueError, match="not what the kernel takes"):
            nvdec.convert(luma, chroma, coefficients(1, True))

    def test_pictures_of_another_kind_are_errors(self) -> None:
        picture = frame(*noise(64, 48))
        with pytest.raises(DeviceError, match="a yuv420p picture was not decoded by the hardware: use --decode cpu"):
            nvdec.to_bgr(picture)
        with pytest.raises(DeviceError, match="its pixels are p010le, not 8-bit 4:2:0: use --decode cpu"):
            nvdec.to_bgr(Picture(picture, "p010le"))

    @only_standin
    def test_a_failing_download_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        picture = Picture(frame(*noise(64, 48)))
        nvdec.to_bgr(picture)
        monkeypatch.setenv("CUDA_STANDIN_FAIL_DTOH", "1")
        with pytest.raises(DeviceError, match=r"gpu:0, converting a picture of 64×48: .*: run `gpu-bgstat doctor`"):
            nvdec.to_bgr(picture)

    @only_standin
    def test_without_nvdec_it_is_an_error(self, film: Path) -> None:
        """The stand-in has no decoder; FFmpeg finds that out."""
        with pytest.raises(DeviceError, match=r"gpu:0 cannot decode arena.mp4 \(.*\): in a container, set NVIDIA_"):
            nvdec.opened(film, 0)
        trial.trusted.cache_clear()
        with pytest.raises(DeviceError, match=r"decode=nvdec cannot be had for .*arena.mp4: gpu:0 cannot decode"):
            trial.choose(film, "gpu:0")

    @pytest.mark.skipif(STANDIN, reason="needs NVDEC")
    def test_the_hardware_decodes_the_same_bits(self) -> None:
        assert all(finding.well for device in visible() for finding in trial.findings(device.index))


def spoiled(pictures: list[Picture]) -> None:
    pictures[5].values[0][100, 7] ^= 1


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fault, word",
    [
        (lambda pictures: None, ""),
        (spoiled, "[1-3] of 91200 values of picture 5 differ from the CPU's"),
        (lambda pictures: pictures.pop(), "different numbers of pictures: 23 and more"),
        (lambda pictures: pictures.reverse(), ".* of picture 0 differ"),
        (lambda pictures: pictures.append(pictures[0]), "different numbers of pictures: 24 and more"),
    ],
)
def test_the_trial_finds_what_is_different(
    fault: Callable[[list[Picture]], object], word: str, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decoder on the CPU in NVDEC's place: nothing but the right bits lets it be used."""
    monkeypatch.setattr(nvdec, "opened", lambda path, device: Decoder(path, device, fault))
    trial.trusted.cache_clear()
    index = visible()[0].index
    findings = {finding.name: finding for finding in trial.findings(index)}
    try:
        chosen: int | None = trial.choose(film, "auto")
    except DeviceError:
        chosen = None
    trial.trusted.cache_clear()
    for codec in trial.ENCODERS:
        finding = findings[f"hardware decoding, {codec}"]
        assert finding.well == (not word)
        assert re.search(word or "24 pictures equal to the CPU's decoding, bit for bit", finding.detail)
    assert chosen == (None if word else index)


@pytest.mark.gpu
def test_a_recording_whose_first_picture_differs_is_refused(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The film made here may be right, and the recording not: its crop, its profile."""
    index = visible()[0].index

    def opened(path: Path, device: int) -> Decoder:
        return Decoder(path, device, spoiled_first if path == film else lambda pictures: None)

    def spoiled_first(pictures: list[Picture]) -> None:
        pictures[0].values[1][3, 3, 0] ^= 255

    monkeypatch.setattr(nvdec, "opened", opened)
    trial.trusted.cache_clear()
    assert trial.trusted(index, "h264") == (True, "24 pictures equal the CPU's, bit for bit")
    with pytest.raises(DeviceError, match="values of picture 0 differ from the CPU's"):
        trial.choose(film, "auto")
    trial.trusted.cache_clear()


@pytest.mark.gpu
def test_a_wrong_conversion_is_a_bad_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = nvdec.convert

    def wrong(luma: Any, chroma: Any, colors: Any) -> Any:
        picture = right(luma, chroma, colors)
        picture[-1, -1, -1] ^= 1
        return picture

    monkeypatch.setattr(nvdec, "convert", wrong)
    bad, unused = islice(trial.findings(visible()[0].index), 3)
    assert not bad.well and bad.detail.startswith("1 of 9216 values of a converted picture are wrong")
    assert unused.well and unused.detail.startswith("not used, the CPU decodes: 1 of 9216")
