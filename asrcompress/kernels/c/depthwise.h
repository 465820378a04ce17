// A convolution over time of every channel by itself: what there is to multiply fits no panel, so channels are the lanes.
#pragma once
#include "rows.h"

typedef struct {
    const int32_t *codes;  // (taps, channels up to 16)
    const int32_t *offset; // (channels up to 16): zero points, or NULL
    const float *scale, *bias;  // (channels up to 16); bias may be NULL
    int32_t channels, taps, stride, dilation;
} Depthwise;

// One output step: every channel's window has a grid of its own, as every token of a product.
static void depthwise_step(const Depthwise *w, const float *x, float *out) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), low = _mm512_set1_epi32(-127), high = _mm512_set1_epi32(127);
    const ptrdiff_t next = (ptrdiff_t)w->dilation * w->channels;
    const int padded = up(w->channels, 16);
    for (int c = 0; c < w->channels; c += 16) {
        const __mmask16 mask = lanes(w->channels - c);
        __m512i bits = _mm512_setzero_si512(), sums = _mm512_setzero_si512(), total = _mm512_setzero_si512();
        for (int k = 0; k < w->taps; k++)
            bits = _mm512_max_epi32(bits, _mm512_and_si512(magnitude, _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, x + k * next + c))));
        const __m512 most = _mm512_castsi512_ps(bits), full = _mm512_set1_ps(127.0f);
        const __m512 inverse = _mm512_mask_mov_ps(_mm512_div_ps(full, most), _mm512_cmp_ps_mask(most, _mm512_set1_ps(TINY), _CMP_LT_OQ), _mm512_setzero_ps());
        __m512 scale = _mm512_mask_mov_ps(_mm512_div_ps(most, full), _mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_EQ_OQ), _mm512_set1_ps(1.0f));
        scale = _mm512_mask_mov_ps(_mm512_set1_ps(__builtin_nanf("")), _mm512_cmp_ps_mask(most, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ), scale);
        for (int k = 0; k < w->taps; k++) {
            __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + k * next + c), inverse));
            code = _mm512_max_epi32(low, _mm512_min_epi32(high, code));
            sums = _mm512_add_epi32(sums, _mm512_mullo_epi32(code, _mm512_loadu_si512(w->codes + (ptrdiff_t)k * padded + c)));
            total = _mm512_add_epi32(total, code);
        }
        if (w->offset) sums = _mm512_sub_epi32(sums, _mm512_mullo_epi32(total, _mm512_loadu_si512(w->offset + c)));
        __m512 value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(w->scale + c)), scale);
        if (w->bias) value = _mm512_add_ps(value, _mm512_loadu_ps(w->bias + c));
        _mm512_mask_storeu_ps(out + c, mask, value);
    }
}
