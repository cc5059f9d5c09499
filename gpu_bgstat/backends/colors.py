"""How FFmpeg's swscale turns the colours of 8-bit 4:2:0 video into BGR on x86: its matrices in 13-bit fractions.

FFmpeg 8.1, for an even height and its default flags, takes the fast way of libswscale's yuv2rgb: each pixel gets the
chroma of its 2 × 2 block, and every product is rounded down on its own. `bgr` in cpu.py does the same.
"""

from __future__ import annotations

from typing import NamedTuple

# AVColorSpace -> the weights of red and blue in luma (ITU-T H.273, table 4). Others are refused by swscale.
WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    2: (0.299, 0.114),  # not said: swscale takes BT.601
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, not constant luminance
}


class Coefficients(NamedTuple):
    """What the conversion multiplies with, times 2**13, in the order of the kernel's arguments."""

    black: int  # the luma of black, in levels
    y_factor: int
    blue_u: int
    green_u: int
    green_v: int
    red_v: int


def coefficients(colorspace: int, full: bool) -> Coefficients:
    """For an AVColorSpace of `WEIGHTS`, and luma from 0 to 255 (full) or from 16 to 235.

    Rounded as swscale does, twice: it keeps limited range times 2**16, and derives full range from that.
    """
    red, blue = WEIGHTS[colorspace]
    green = 1 - red - blue
    exact = 2 * (1 - blue), -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green, 2 * (1 - red)
    fine = [round((1 << 16) * 255 / 224 * factor) for factor in exact]
    if full:
        fine = [int(factor * 224 / 255) for factor in fine]
    chroma = [(factor + 4) >> 3 for factor in fine]
    return Coefficients(0 if full else 16, round((1 << 13) * (1 if full else 255 / 219)), *chroma)
