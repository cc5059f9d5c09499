// The population variance from integer sums, rounded once. Reference: `exact_variance` in gpu_bgstat/backends/moments.py.
#pragma once

// (count * squares - sum**2) / count**2 as float32, half to even. count <= 65535, samples of 16 bits at most.
__device__ __forceinline__ float exact_variance(unsigned count, unsigned long long sum, unsigned long long squares)
{
    const unsigned long long numerator = count * squares - sum * sum;  // below 2**64
    if (numerator == 0) return 0.0f;
    // The quotient of the numerator shifted to the top has 32 to 62 bits, more than a float32 holds. What the division
    // leaves over is remembered in the last bit, so that the conversion rounds as the exact ratio would.
    const int shift = __clzll(numerator);
    const unsigned long long divisor = (unsigned long long)count * count;
    const unsigned long long scaled = numerator << shift;
    const unsigned long long quotient = scaled / divisor;
    const bool inexact = quotient * divisor != scaled;
    return __ull2float_rn(quotient | inexact) * __int_as_float((127 - shift) << 23);  // times 2**-shift, exact
}
