// What is done to one row of floats: its own int8 grid, layer norm, softmax's exponential.
#pragma once
#include "product.h"

#define TINY 1e-30f  // rows whose largest value is below are taken for zeros: 127 / it would not be a number

// The largest magnitude; NaN if there is one (as bits, NaN is above infinity, which is above all numbers).
INLINE float largest(const float *x, int n) {
    __m512i most = _mm512_setzero_si512();
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int i = 0; i < n; i += 16)
        most = _mm512_max_epi32(most, _mm512_and_si512(magnitude, _mm512_castps_si512(_mm512_maskz_loadu_ps(lanes(n - i), x + i))));
    const int32_t bits = _mm512_reduce_max_epi32(most);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Codes round(x 127 / largest) in -127 .. 127 at `codes`, each of `groups` padded with zeros to whole words; their sums; the scale.
INLINE void quantize_row(const float *x, int n, int groups, int8_t *codes, float *scale, int32_t *sums) {
    const float most = largest(x, n);
    const __m512 inverse = _mm512_set1_ps(most < TINY ? 0.0f : 127.0f / most);
    const __m512i low = _mm512_set1_epi32(-127), high = _mm512_set1_epi32(127);
    const int size = n / groups;
    *scale = most == 0.0f ? 1.0f : most < __builtin_inff() ? most / 127.0f : __builtin_nanf("");  // nothing of a broken row is a number
    for (int g = 0; g < groups; g++) {
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < size; i += 16) {
            const __mmask16 mask = lanes(size - i);
            __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
            code = _mm512_max_epi32(low, _mm512_min_epi32(high, code));
            sum = _mm512_add_epi32(sum, code);
            _mm512_mask_cvtepi32_storeu_epi8(codes + i, lanes(up(size, 4) - i), code);
        }
        sums[g] = _mm512_reduce_add_epi32(sum);
        x += size;
        codes += up(size, 4);
    }
}

// (x - mean) / sqrt(variance + eps) weight + bias, Ba et al. 2016.
INLINE void layer_norm_row(const float *x, int n, const float *weight, const float *bias, float eps, float *out) {
    __m512 total = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 16) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(lanes(n - i), x + i));
    const float mean = _mm512_reduce_add_ps(total) / (float)n;
    const __m512 center = _mm512_set1_ps(mean);
    total = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 16) {
        const __mmask16 mask = lanes(n - i);
        const __m512 away = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + i), center);
        total = _mm512_fmadd_ps(away, away, total);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(total) / (float)n + eps));
    for (int i = 0; i < n; i += 16) {
        const __mmask16 mask = lanes(n - i);
        const __m512 normal = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), center), factor);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_fmadd_ps(normal, _mm512_maskz_loadu_ps(mask, weight + i), _mm512_maskz_loadu_ps(mask, bias + i)));
    }
}

// e^x for x <= 0, to about 1 in 10 million: 2^n by its exponent, the rest by a polynomial over [-ln 2 / 2, ln 2 / 2].
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // below, e^x is 0 in float32; NaN stays
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720.0f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}
