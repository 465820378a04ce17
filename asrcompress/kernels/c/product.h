// Products of int8 codes: packed weights, the tile of registers that multiplies, and what is done with its sums.
#pragma once
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define TILE_ROWS 6  // 6 x 4 vectors of sums, 4 of weights and 1 of activations fill the 32 registers
#define PANEL 64     // outputs of a panel: 4 vectors of 16

// A matrix (n outputs, k inputs) in panels of 64 outputs, the last one narrower (a multiple of 16): for each word of 4 inputs
// the 64 x 4 codes, as code + 128. `groups` of k4 words each have scales of their own. Integers are multiplied with
// vpdpbusd, which takes unsigned by signed: (code + 128) a = code a + 128 a, so 128 x the sum of the a goes off again.
typedef struct {
    const uint8_t *codes;
    const float *scale;     // (groups, n up to 16)
    const int32_t *offset;  // (groups, n up to 16): 128 + zero point; NULL means 128
    const float *bias;      // (n up to 16) or NULL
    int32_t n, groups, k4, k;
} Weight;

// Rows of activations on grids of their own.
typedef struct {
    const int8_t *codes;  // (rows, stride)
    const float *scale;   // (rows)
    const int32_t *sums;  // (rows, groups): of codes
    ptrdiff_t stride;
} Tokens;

// What becomes of a row of sums: x scale, + bias, at least 0 if relu, + residual.
typedef struct {
    float *values;          // row r goes to values + rows[r] * stride (or r * stride)
    const float *residual;  // the same places, or NULL
    const int32_t *rows;
    ptrdiff_t stride;
    int relu;
} Target;

INLINE __mmask16 lanes(int n) { return n >= 16 ? (__mmask16)0xffff : n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1); }
INLINE int up(int n, int to) { return (n + to - 1) / to * to; }

INLINE void multiply(const int R, const int V, __m512i sums[TILE_ROWS][4], const int8_t *a, ptrdiff_t stride, const uint8_t *b, int k4) {
    for (int word = 0; word < k4; word++) {
        __m512i weights[4];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) weights[v] = _mm512_loadu_si512(b + 64 * v);
        b += 64 * V;
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            int32_t four;
            memcpy(&four, a + r * stride + 4 * word, 4);
            const __m512i activation = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], weights[v], activation);
        }
    }
}

INLINE void finish(const int R, const int V, __m512 values[TILE_ROWS][4], const Weight *w, const float *token_scale, const Target *to, int row, int column) {
    const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        const ptrdiff_t place = (to->rows ? to->rows[row + r] : row + r) * to->stride + column;
        const __m512 scale = _mm512_set1_ps(token_scale[row + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            const __mmask16 mask = lanes(w->n - column - 16 * v);
            __m512 out = _mm512_mul_ps(values[r][v], scale);
            if (w->bias) out = _mm512_add_ps(out, _mm512_loadu_ps(w->bias + column + 16 * v));
            if (to->relu) out = _mm512_max_ps(zero, out);  // a NaN stays one
            if (to->residual) out = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to->residual + place + 16 * v), out);
            _mm512_mask_storeu_ps(to->values + place + 16 * v, mask, out);
        }
    }
}

INLINE void tile(const int R, const int V, const int grouped, const Tokens *x, const Weight *w, const uint8_t *panel, const Target *to, int row, int column) {
    __m512 values[TILE_ROWS][4];
    const int padded = up(w->n, 16), groups = grouped ? w->groups : 1;
    int g = 0;
    do {
        __m512i sums[TILE_ROWS][4];
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            const int32_t sum = x->sums[(row + r) * groups + g];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                sums[r][v] = w->offset ? _mm512_mullo_epi32(_mm512_set1_epi32(-sum), _mm512_loadu_si512(w->offset + g * padded + column + 16 * v))
                                       : _mm512_set1_epi32(-128 * sum);
        }
        multiply(R, V, sums, x->codes + row * x->stride + (ptrdiff_t)4 * g * w->k4, x->stride, panel + (ptrdiff_t)64 * V * g * w->k4, w->k4);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                const __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), _mm512_loadu_ps(w->scale + g * padded + column + 16 * v));
                values[r][v] = grouped && g ? _mm512_add_ps(values[r][v], part) : part;
            }
    } while (++g < groups);
    finish(R, V, values, w, x->scale, to, row, column);
}

#define TILE_CASE(R, V, GROUPED) \
    case R * 8 + V: tile(R, V, GROUPED, x, w, panel, to, row, column); break;
#define TILE_CASES(R, GROUPED) TILE_CASE(R, 1, GROUPED) TILE_CASE(R, 2, GROUPED) TILE_CASE(R, 3, GROUPED) TILE_CASE(R, 4, GROUPED)

// Rows [first, last) of tokens x outputs of panels [panel_first, panel_last).
__attribute__((noinline, noclone)) static void product(const Tokens *x, const Weight *w, const Target *to, int first, int last, int panel_first, int panel_last) {
    const int most = w->groups == 1 ? TILE_ROWS : 3;  // with groups, sums and values share the registers
    for (int p = panel_first; p < panel_last; p++) {
        const int column = p * PANEL, vectors = up(w->n - column > PANEL ? PANEL : w->n - column, 16) / 16;
        const uint8_t *panel = w->codes + (ptrdiff_t)p * 256 * w->groups * w->k4;
        for (int row = first; row < last; row += most) {
            const int rows = last - row < most ? last - row : most;
            if (w->groups == 1) switch (rows * 8 + vectors) { TILE_CASES(1, 0) TILE_CASES(2, 0) TILE_CASES(3, 0) TILE_CASES(4, 0) TILE_CASES(5, 0) TILE_CASES(6, 0) }
            else switch (rows * 8 + vectors) { TILE_CASES(1, 1) TILE_CASES(2, 1) TILE_CASES(3, 1) }
        }
    }
}
