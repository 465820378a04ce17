// Scaled dot-product attention of one head on int8 codes: scores, softmax, sum of values.
#pragma once
#include "rows.h"

// Keys and values of one head, packed as the weights of two products.
typedef struct {
    uint8_t *keys, *values;           // panels over keys, and over the width
    float *key_scale, *value_scale;   // (keys up to 64)
    int num_keys, width;
} Memory;

// Bytes of scratch for one head, by purpose; all multiples of 64.
INLINE size_t packed_keys_bytes(int num_keys, int width) { return (size_t)up(num_keys, 16) * up(width, 4) + 64; }
INLINE size_t packed_values_bytes(int num_keys, int width) { return (size_t)up(num_keys, 4) * up(width, 16) + 64; }

// Rows of k and v, so many floats apart, each on a grid of its own. row: 4 x the width up to 64, of scratch.
static void pack_memory(Memory *m, const float *k, ptrdiff_t k_stride, const float *v, ptrdiff_t v_stride, int8_t *row) {
    const int words = up(m->width, 4) / 4, padded = up(m->num_keys, 4), wide = up(m->width, 16);
    int32_t sum;
    memset(row, 0, (size_t)up(m->width, 64));
    memset(m->key_scale, 0, (size_t)4 * up(m->num_keys, 64));  // read, though never used, beyond the last key
    memset(m->value_scale, 0, (size_t)4 * up(m->num_keys, 64));
    for (int j = 0; j < m->num_keys; j++) {
        quantize_row(k + j * k_stride, m->width, 1, row, m->key_scale + j, &sum);
        const int panel = j / PANEL, column = j % PANEL;
        const int columns = up(m->num_keys - panel * PANEL > PANEL ? PANEL : m->num_keys - panel * PANEL, 16);
        uint8_t *to = m->keys + (ptrdiff_t)panel * PANEL * 4 * words + 4 * column;
        for (int word = 0; word < words; word++) {
            uint32_t four;
            memcpy(&four, row + 4 * word, 4);
            four ^= 0x80808080u;  // + 128 in each byte
            memcpy(to + (ptrdiff_t)4 * columns * word, &four, 4);
        }
    }
    int8_t *four = row;  // 4 rows of values, interleaved below
    for (int j = 0; j < padded; j += 4) {
        memset(four, 0, (size_t)4 * wide);
        for (int i = 0; i < 4 && j + i < m->num_keys; i++) quantize_row(v + (j + i) * v_stride, m->width, 1, four + i * wide, m->value_scale + j + i, &sum);
        for (int column = 0; column < wide; column += 16) {
            __m512i word = _mm512_setzero_si512();
            for (int i = 3; i >= 0; i--)
                word = _mm512_or_si512(_mm512_slli_epi32(word, 8), _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(four + i * wide + column))));
            const int panel = column / PANEL, columns = wide - panel * PANEL > PANEL ? PANEL : wide - panel * PANEL;
            uint8_t *to = m->values + (ptrdiff_t)panel * PANEL * padded + (ptrdiff_t)j * columns + 4 * (column % PANEL);
            _mm512_storeu_si512(to, _mm512_xor_si512(word, _mm512_set1_epi32((int)0x80808080u)));
        }
    }
}

// softmax of a row of scores, x the values' scales, on a grid of its own; gives what the sums over values are multiplied by.
INLINE float weigh_row(float *scores, int n, const float *mask, const float *value_scale, int8_t *codes, int32_t *sum) {
    __m512 most = _mm512_set1_ps(-__builtin_inff()), total = _mm512_setzero_ps();
    __m512i top = _mm512_setzero_si512();  // as bits, so that NaN stays the largest
    for (int i = 0; i < n; i += 16) {
        const __mmask16 in = lanes(n - i);
        __m512 score = _mm512_mask_loadu_ps(_mm512_set1_ps(-__builtin_inff()), in, scores + i);
        if (mask) {
            score = _mm512_mask_add_ps(score, in, score, _mm512_maskz_loadu_ps(in, mask + i));
            _mm512_storeu_ps(scores + i, score);
        }
        most = _mm512_max_ps(most, score);
    }
    const __m512 base = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (int i = 0; i < n; i += 16) {
        const __mmask16 in = lanes(n - i);
        const __m512 weight = _mm512_maskz_mov_ps(in, exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, scores + i), base)));
        total = _mm512_add_ps(total, weight);
        const __m512 scaled = _mm512_mul_ps(weight, _mm512_maskz_loadu_ps(in, value_scale + i));
        top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_set1_epi32(0x7fffffff), _mm512_castps_si512(scaled)));
        _mm512_storeu_ps(scores + i, scaled);
    }
    const int32_t top_bits = _mm512_reduce_max_epi32(top);
    float largest_weight;
    memcpy(&largest_weight, &top_bits, 4);
    const __m512 inverse = _mm512_set1_ps(largest_weight < TINY ? 0.0f : 127.0f / largest_weight);
    __m512i sums = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16) {
        const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(lanes(n - i), scores + i), inverse));
        sums = _mm512_add_epi32(sums, code);
        _mm512_mask_cvtepi32_storeu_epi8(codes + i, lanes(up(n, 4) - i), code);
    }
    *sum = _mm512_reduce_add_epi32(sums);
    return largest_weight / 127.0f / _mm512_reduce_add_ps(total);
}

// Queries (num_queries, width), `stride` floats apart, x scaling -> out, `out_stride` apart. mask: (keys up to 16), 0 or -infinity, or NULL.
// extra: rows of num_keys floats, `extra_stride` apart, added to the scores, or NULL.
// scratch: 64-byte aligned, attention_scratch() bytes.
INLINE size_t attention_scratch(int num_keys, int width) {
    return (size_t)TILE_ROWS * (up(width, 64) + up(num_keys, 64) * 5 + 64);
}

static void attend(const Memory *m, const float *q, ptrdiff_t stride, int num_queries, float scaling, const float *mask, const float *extra, ptrdiff_t extra_stride, float *out, ptrdiff_t out_stride, uint8_t *scratch) {
    const int padded = up(m->num_keys, 64), row_bytes = up(m->width, 64);
    int8_t *q_codes = (int8_t *)scratch, *weights = q_codes + TILE_ROWS * row_bytes;
    float *scores = (float *)(weights + TILE_ROWS * padded);
    float q_scale[TILE_ROWS], out_scale[TILE_ROWS];
    int32_t q_sums[TILE_ROWS], weight_sums[TILE_ROWS];
    const Weight keys = {m->keys, m->key_scale, NULL, NULL, m->num_keys, 1, up(m->width, 4) / 4, m->width};
    static const float ones[4096] = {[0 ... 4095] = 1.0f};
    const Weight values = {m->values, ones, NULL, NULL, m->width, 1, up(m->num_keys, 4) / 4, m->num_keys};
    for (int first = 0; first < num_queries; first += TILE_ROWS) {
        const int rows = num_queries - first < TILE_ROWS ? num_queries - first : TILE_ROWS;
        for (int r = 0; r < rows; r++) {
            quantize_row(q + (first + r) * stride, m->width, 1, q_codes + r * row_bytes, q_scale + r, q_sums + r);
            q_scale[r] *= scaling;
        }
        const Tokens queries = {q_codes, q_scale, q_sums, row_bytes};
        const Target to_scores = {scores, NULL, NULL, padded, 0};
        product(&queries, &keys, &to_scores, 0, rows, 0, (m->num_keys + PANEL - 1) / PANEL);
        for (int r = 0; extra && r < rows; r++)
            for (int i = 0; i < m->num_keys; i += 16) {
                const __mmask16 in = lanes(m->num_keys - i);
                float *score = scores + r * padded + i;
                _mm512_mask_storeu_ps(score, in, _mm512_add_ps(_mm512_maskz_loadu_ps(in, score), _mm512_maskz_loadu_ps(in, extra + (first + r) * extra_stride + i)));
            }
        for (int r = 0; r < rows; r++) out_scale[r] = weigh_row(scores + r * padded, m->num_keys, mask, m->value_scale, weights + r * padded, weight_sums + r);
        const Tokens weighing = {weights, out_scale, weight_sums, padded};
        const Target to_out = {out + first * out_stride, NULL, NULL, out_stride, 0};
        product(&weighing, &values, &to_out, 0, rows, 0, (m->width + PANEL - 1) / PANEL);
    }
}
