"""How far an estimated background is from the true one: the six scores of the Scene Background Modeling benchmark.

Sources:

- L. Maddalena, A. Petrosino, "Towards benchmarking scene background initialization", ICIAP workshops 2015 (the data set
  SBI and its Matlab scripts of 2016-01-25, Evaluate3.m, PeakSignaltoNoiseRatio.m and cqm.m, which settle the details
  below); P.-M. Jodoin, L. Maddalena, A. Petrosino, Y. Wang, "Extensive benchmark and survey of modeling methods for
  scene background initialization", IEEE TIP 26 (2017) (SBMnet).
- Z. Wang, E. Simoncelli, A. Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003.
- Y. Yalman, İ. Ertürk, "A new color image quality measure based on YUV transformation and PSNR for human vision
  system", Turkish J. Electrical Engineering & Computer Sciences 21 (2013).

Two details differ from these scripts. Grey is OpenCV's COLOR_BGR2GRAY, 0 to 255, as in SBMnet's; SBI's rgb2ycbcr has
the range 16 to 235, which makes its AGE smaller by 219/255. And U and V of CQM are signed, as in the paper: cqm.m
subtracts unsigned integers, so that negative values become 0.

All scores are in units of 8 bits. Pictures of 16 bits are scaled so that 65535 is 255, and not rounded; beside one of
16 bits, one of 8 bits counts as such, too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.errors import FrameError
from gpu_bgstat.frames import FrameSpec, Image

Floats = NDArray[np.float64]

WRONG = 20  # grey levels; a larger error makes a pixel an error pixel
EQUAL_DB = 99.0  # the PSNR of equal pictures, as in PeakSignaltoNoiseRatio.m
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003
LUMA_WEIGHT, CHROMA_WEIGHT = 0.9449, 0.0551  # Yalman & Ertürk 2013: shares of rods and cones in the eye
_STEPS = 257  # of 16 bits to one of 8: 65535 / 255


@dataclass(frozen=True)
class Scores:
    """Lower is better for the first three, higher for the others."""

    age: float  # mean absolute error, grey levels
    peps: float  # share of pixels whose error exceeds 20 grey levels, 0 to 1
    pceps: float  # share of pixels that are such and whose 4 neighbours are, too
    psnr_db: float  # of the grey pictures, peak 255; 99 if they are equal
    ms_ssim: float | None  # of the grey pictures; None if a side is shorter than 32 pixels
    cqm_db: float | None  # None if a picture is grey

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def score(estimate: Image, truth: Image) -> Scores:
    """All six; either picture may be grey or BGR, 8 or 16 bit. If one is grey, the other is compared in grey.

    Raises FrameError if their sizes differ, or if one is no such picture.
    """
    pictures = _alike(estimate, truth)
    grey = _levels(_grey(pictures[0])), _levels(_grey(pictures[1]))
    wrong = error(*grey) > WRONG
    return Scores(
        age=float(error(*grey).mean()),
        peps=float(wrong.mean()),
        pceps=float(clustered(wrong).mean()),
        psnr_db=psnr(*grey),
        ms_ssim=ms_ssim(*grey),
        cqm_db=None if min(picture.ndim for picture in pictures) == 2 else cqm(*pictures),
    )


def error(estimate: Floats, truth: Floats) -> Floats:
    """(H, W): the absolute error of each pixel in grey levels."""
    return np.abs(estimate - truth)


def clustered(wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The error pixels whose 4-connected neighbours are all error pixels; what lies outside the picture counts as such.

    As Matlab's imerode with a diamond of radius 1 in Evaluate3.m. (Evaluations in Python that go back to SBMnet use
    scipy's binary_erosion, with which a pixel at the border is never clustered.)
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return cv2.erode(wrong.astype(np.uint8), cross).astype(bool)


def psnr(estimate: Floats, truth: Floats) -> float:
    """10·log10(255² / mean squared error), in dB; 99 for equal pictures."""
    squared = float(np.mean((estimate - truth) ** 2))
    return 10 * float(np.log10(255**2 / squared)) if squared else EQUAL_DB


def cqm(estimate: Image, truth: Image) -> float:
    """0.9449·PSNR(Y) + 0.0551·(PSNR(U) + PSNR(V)) / 2, in dB, for two BGR pictures of one type.

    Y, U, V are the reversible transform's: ⌊(R + 2G + B) / 4⌋, R − G and B − G. The peak is 255 for each.
    """
    luma, *chroma = (
        psnr(one / _steps(estimate), other / _steps(truth))
        for one, other in zip(_reversible_yuv(estimate), _reversible_yuv(truth), strict=True)
    )
    return LUMA_WEIGHT * luma + CHROMA_WEIGHT * sum(chroma) / 2


def ms_ssim(estimate: Floats, truth: Floats) -> float | None:
    """Wang's multi-scale structural similarity of two grey pictures, at most 1; None if a side is below 32 pixels.

    Five scales, each half of the one before; contrast and structure (K = 0.01, 0.03) enter at all of them, luminance at
    the coarsest. The window is a Gaussian of 11 pixels and deviation 1.5 where it lies within the picture. If a side is
    shorter than 176 pixels, the window has a sixteenth of it, as in Evaluate3.m; below 32 that would be a single pixel.
    A scale on which structure is inverted on the whole (mean below 0) counts as 0.
    """
    shortest = min(truth.shape)
    if shortest < 32:
        return None
    side = 11 if shortest >= 176 else shortest // 16
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, structure = ssim_maps(estimate, truth, side)
        last = scale == len(SCALE_WEIGHTS) - 1
        mean = float((luminance * structure).mean() if last else structure.mean())
        product *= max(mean, 0.0) ** weight
        estimate, truth = _halved(estimate), _halved(truth)
    return product


def ssim_maps(estimate: Floats, truth: Floats, side: int) -> tuple[Floats, Floats]:
    """Luminance, and contrast times structure, at each place of a window of `side` pixels; their product is SSIM."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = _smoothed(estimate, side), _smoothed(truth, side)
    variances = _smoothed(estimate**2, side) - mean_1**2 + _smoothed(truth**2, side) - mean_2**2
    covariance = _smoothed(estimate * truth, side) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _alike(estimate: Image, truth: Image) -> tuple[Image, Image]:
    """Both pictures as (H, W) or (H, W, 3) of one type."""
    pictures = []
    for name, picture in (("estimate", estimate), ("truth", truth)):
        spec = FrameSpec.of(picture)
        if picture.dtype not in (np.uint8, np.uint16):
            raise FrameError(f"the {name} has the type {picture.dtype}: scores are for 8 and 16 bit (uint8, uint16)")
        pictures.append(picture[:, :, :3] if spec.channels == 3 else picture.reshape(spec.shape))
    sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures]
    if sizes[0] != sizes[1]:
        raise FrameError(f"the estimate has {sizes[0]} pixels, the truth {sizes[1]}: give pictures of one size")
    if {picture.dtype.itemsize for picture in pictures} == {1, 2}:
        pictures = [p if p.dtype.itemsize == 2 else p.astype(np.uint16) * np.uint16(_STEPS) for p in pictures]
    return pictures[0], pictures[1]


def _grey(picture: Image) -> Image:
    """(H, W) of the picture's type."""
    if picture.ndim == 2:
        return picture
    grey: Image = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2GRAY)
    return grey


def _steps(picture: Image) -> int:
    return 1 if picture.dtype.itemsize == 1 else _STEPS


def _levels(grey: Image) -> Floats:
    """In levels of 8 bits."""
    levels: Floats = grey.astype(np.float64) / _steps(grey)
    return levels


def _reversible_yuv(picture: Image) -> tuple[NDArray[np.int64], ...]:
    blue, green, red = (picture[:, :, channel].astype(np.int64) for channel in range(3))
    return (red + 2 * green + blue) // 4, red - green, blue - green


def _smoothed(picture: Floats, side: int) -> Floats:
    """The mean in a Gaussian window of that many pixels, at each place where it lies within the picture."""
    offsets = np.arange(side) - (side - 1) / 2
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    full: Any = cv2.sepFilter2D(picture, cv2.CV_64F, window, window, anchor=(0, 0))
    inside: Floats = full[: picture.shape[0] - side + 1, : picture.shape[1] - side + 1]
    return inside


def _halved(picture: Floats) -> Floats:
    """Means of 2x2 pixels; an odd last row or column is doubled, as by Wang's msssim.m (imfilter, "symmetric")."""
    even = np.pad(picture, [(0, side % 2) for side in picture.shape], mode="symmetric")
    halved: Floats = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return halved
