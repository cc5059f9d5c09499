// NV12, as the hardware decodes, to packed BGR, with the bits that FFmpeg's swscale gives for yuv420p to bgr24 on x86.
//
//   luma      (height, luma_pitch bytes) uint8     `width` samples a row
//   chroma    (height / 2, chroma_pitch bytes) uint8     a row: u0 v0 u1 v1 …, one pair for 2 × 2 pixels
//   bgr       (height, width, 3) uint8
//   factors   2**13 times what a matrix says, see gpu_bgstat/backends/colors.py; black: the luma of black
//
//   thread    2 × 2 pixels and their pair of chroma: 2 bytes of each luma row, 6 bytes of each row of bgr.
//   warp      64 pixels of two rows: a coalesced 64 bytes of each luma row and of chroma, 192 bytes of each row of bgr.
//
// A level is summed up from products, each rounded down on its own, as swscale does it in 16-bit words.
// Limits: width and height even, addresses and pitches even; height <= 2**20.
// Launch: blocks = ceil(width / 64) × ceil(height / 16) of 32 × 8 = 256 threads, 0 bytes of dynamic shared memory.
// Reads each byte once. Reference: `bgr` in gpu_bgstat/backends/cpu.py.

__device__ __forceinline__ unsigned level(int sum)
{
    return min(max(sum, 0), 255);
}

extern "C" __global__ void __launch_bounds__(256)
    nv12_bgr(const unsigned char* __restrict__ luma, long long luma_pitch, const unsigned char* __restrict__ chroma,
             long long chroma_pitch, int width, int height, unsigned char* __restrict__ bgr, int black, int y_factor,
             int blue_u, int green_u, int green_v, int red_v)
{
    const int x = 2 * (blockIdx.x * 32 + threadIdx.x), row = blockIdx.y * 8 + threadIdx.y;
    if (x >= width || 2 * row >= height) return;
    const unsigned pair = *reinterpret_cast<const unsigned short*>(chroma + row * chroma_pitch + x);
    const int u = 8 * (static_cast<int>(pair & 0xff) - 128), v = 8 * (static_cast<int>(pair >> 8) - 128);
    const int blue = blue_u * u >> 16, green = (green_u * u >> 16) + (green_v * v >> 16), red = red_v * v >> 16;
#pragma unroll
    for (int line = 0; line < 2; ++line) {
        const int y = 2 * row + line;
        const unsigned two = *reinterpret_cast<const unsigned short*>(luma + y * luma_pitch + x);
        const int left = y_factor * 8 * (static_cast<int>(two & 0xff) - black) >> 16;
        const int right = y_factor * 8 * (static_cast<int>(two >> 8) - black) >> 16;
        unsigned short* to = reinterpret_cast<unsigned short*>(bgr + 3 * (static_cast<long long>(y) * width + x));
        to[0] = level(left + blue) | level(left + green) << 8;
        to[1] = level(left + red) | level(right + blue) << 8;
        to[2] = level(right + green) | level(right + red) << 8;
    }
}
