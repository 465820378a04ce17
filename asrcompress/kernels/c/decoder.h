// One step of a transformer decoder for every hypothesis of a beam search: embedded tokens in, logits out.
#pragma once
#include "layers.h"

typedef struct {
    Norm self_norm, cross_norm, ffn_norm;
    Weight qkv, out, cross_q, cross_out, fc1, fc2;
} DecoderLayer;

typedef struct {
    const DecoderLayer *layers;
    Norm final_norm;  // weight NULL: there is none
    Weight output;
    int32_t num_layers, heads, pre_norm;
} Decoder;

// What a layer remembers: its own keys and values as codes, one row a step and hypothesis, and the packed ones of the encoder.
typedef struct {
    int8_t *keys, *values;           // (steps, capacity, dim)
    float *key_scale, *value_scale;  // (steps, capacity, heads)
    uint8_t *cross_keys, *cross_values;
    float *cross_key_scale, *cross_value_scale;  // (utterances, heads, num_keys up to 64)
} LayerState;

// slots (rows, max_steps): which row of step s a hypothesis continues, so that beams move without their memory being copied.
typedef struct {
    const LayerState *layers;
    const int32_t *slots, *utterance;
    const float *mask;  // (utterances, mask_stride), 0 or -infinity, or NULL
    int32_t rows, capacity, step, max_steps, num_keys, mask_stride;
} DecoderState;

// width codes as signed x signed: codes + 128 times the query, less 128 x the query's sum.
INLINE int32_t dot(const int8_t *key, const int8_t *query, int width, int32_t query_sum) {
    __m512i sums = _mm512_setzero_si512();
    for (int i = 0; i < width; i += 64) {
        const __mmask64 mask = width - i >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (width - i)) - 1;
        const __m512i codes = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, key + i), _mm512_set1_epi32((int)0x80808080u));
        sums = _mm512_dpbusd_epi32(sums, codes, _mm512_maskz_loadu_epi8(mask, query + i));
    }
    return _mm512_reduce_add_epi32(sums) - 128 * query_sum;
}

INLINE void add_scaled(int32_t *sums, const int8_t *value, int32_t weight, int width) {
    const __m512i factor = _mm512_set1_epi16((short)weight);
    for (int i = 0; i < width; i += 32) {
        const __mmask32 mask = width - i >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << (width - i)) - 1;
        const __m512i product = _mm512_mullo_epi16(_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, value + i)), factor);
        for (int half = 0; half < 2; half++) {
            const __m256i part = half ? _mm512_extracti64x4_epi64(product, 1) : _mm512_castsi512_si256(product);
            int32_t *to = sums + i + 16 * half;
            _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), _mm512_cvtepi16_epi32(part)));
        }
    }
}

// Scratch of one thread.
typedef struct {
    Rows rows;
    float *qkv, *attended, *scores, *value_scale;
    int8_t *query, *weights;
    int32_t *sums;
    uint8_t *cross;
} StepScratch;

INLINE size_t step_scratch(const Decoder *d, const DecoderState *s, int dim, int hidden, int groups, StepScratch *to, uint8_t *memory) {
    const int width = dim / d->heads, steps = up(s->max_steps, 64);
    const size_t sizes[] = {rows_scratch(dim, hidden, groups), (size_t)4 * BLOCK * 3 * up(dim, 16), (size_t)4 * BLOCK * up(dim, 16), (size_t)4 * steps, (size_t)4 * steps,
                            (size_t)up(width, 64), (size_t)steps, (size_t)4 * up(width, 64), attention_scratch(s->num_keys, width)};
    size_t at = 0, places[9];
    for (int i = 0; i < 9; i++) {
        places[i] = at;
        at += (sizes[i] + 63) / 64 * 64;
    }
    if (memory) {
        to->rows = make_rows(memory, dim, hidden, groups);
        to->qkv = (float *)(memory + places[1]);
        to->attended = (float *)(memory + places[2]);
        to->scores = (float *)(memory + places[3]);
        to->value_scale = (float *)(memory + places[4]);
        to->query = (int8_t *)(memory + places[5]);
        to->weights = (int8_t *)(memory + places[6]);
        to->sums = (int32_t *)(memory + places[7]);
        to->cross = memory + places[8];
    }
    return at;
}

// Attention of row `row` to its own past, this step included; its query at q, keys and values behind it.
static void attend_past(const Decoder *d, const DecoderState *s, const LayerState *l, const StepScratch *t, int row, const float *q, float *out, int dim) {
    const int width = dim / d->heads;
    const float scaling = 1.0f / __builtin_sqrtf((float)width);
    const ptrdiff_t now = (ptrdiff_t)s->step * s->capacity + row;
    int32_t sum, query_sum;
    for (int h = 0; h < d->heads; h++) {
        quantize_row(q + dim + h * width, width, 1, l->keys + now * dim + h * width, l->key_scale + now * d->heads + h, &sum);
        quantize_row(q + 2 * dim + h * width, width, 1, l->values + now * dim + h * width, l->value_scale + now * d->heads + h, &sum);
        float query_scale;
        quantize_row(q + h * width, width, 1, t->query, &query_scale, &query_sum);
        for (int step = 0; step <= s->step; step++) {
            const ptrdiff_t then = (ptrdiff_t)step * s->capacity + s->slots[(ptrdiff_t)row * s->max_steps + step];
            t->scores[step] = (float)dot(l->keys + then * dim + h * width, t->query, width, query_sum) * (query_scale * scaling) * l->key_scale[then * d->heads + h];
            t->value_scale[step] = l->value_scale[then * d->heads + h];
        }
        const float scale = weigh_row(t->scores, s->step + 1, NULL, t->value_scale, t->weights, &sum);
        memset(t->sums, 0, (size_t)4 * up(width, 32));
        for (int step = 0; step <= s->step; step++) {
            const ptrdiff_t then = (ptrdiff_t)step * s->capacity + s->slots[(ptrdiff_t)row * s->max_steps + step];
            add_scaled(t->sums, l->values + then * dim + h * width, t->weights[step], width);
        }
        for (int i = 0; i < width; i++) out[h * width + i] = (float)t->sums[i] * scale;
    }
}

// Attention of `count` rows from `row` on to the encoder's output of their utterances; rows of one utterance go together.
static void attend_encoder(const Decoder *d, const DecoderState *s, const LayerState *l, const StepScratch *t, int row, int count, int dim) {
    const int width = dim / d->heads;
    for (int first = 0; first < count;) {
        const int utterance = s->utterance[row + first];
        int last = first + 1;
        while (last < count && s->utterance[row + last] == utterance) last++;
        for (int h = 0; h < d->heads; h++) {
            const ptrdiff_t part = (ptrdiff_t)utterance * d->heads + h;
            const Memory m = {
                l->cross_keys + part * packed_keys_bytes(s->num_keys, width), l->cross_values + part * packed_values_bytes(s->num_keys, width),
                l->cross_key_scale + part * up(s->num_keys, 64), l->cross_value_scale + part * up(s->num_keys, 64), s->num_keys, width};
            attend(&m, t->qkv + (ptrdiff_t)first * dim + h * width, dim, last - first, 1.0f / __builtin_sqrtf((float)width),
                   s->mask ? s->mask + (ptrdiff_t)utterance * s->mask_stride : NULL, NULL, 0, t->attended + (ptrdiff_t)first * dim + h * width, dim, t->cross);
        }
        first = last;
    }
}

INLINE void post_norm(const Decoder *d, float *x, int count, int dim, const Norm *norm) {
    if (!d->pre_norm)
        for (int i = 0; i < count; i++) layer_norm_row(x + (ptrdiff_t)i * dim, dim, norm->weight, norm->bias, norm->eps, x + (ptrdiff_t)i * dim);
}

// All layers for rows [row, row + count), count <= BLOCK.
static void decode_rows(const Decoder *d, const DecoderState *s, const StepScratch *t, float *x, int row, int count, float *logits) {
    const int dim = d->layers->out.n;
    for (int i = 0; i < d->num_layers; i++) {
        const DecoderLayer *layer = d->layers + i;
        const LayerState *l = s->layers + i;
        const Target to_x = {x, x, NULL, dim, 0}, to_qkv = {t->qkv, NULL, NULL, 3 * dim, 0}, to_query = {t->qkv, NULL, NULL, dim, 0};
        Tokens tokens = quantize_rows(&t->rows, x, NULL, dim, count, d->pre_norm ? &layer->self_norm : NULL, &layer->qkv);
        product(&tokens, &layer->qkv, &to_qkv, 0, count, 0, panels(&layer->qkv));
        for (int j = 0; j < count; j++) attend_past(d, s, l, t, row + j, t->qkv + (ptrdiff_t)j * 3 * dim, t->attended + (ptrdiff_t)j * dim, dim);
        tokens = quantize_rows(&t->rows, t->attended, NULL, dim, count, NULL, &layer->out);
        product(&tokens, &layer->out, &to_x, 0, count, 0, panels(&layer->out));
        post_norm(d, x, count, dim, &layer->self_norm);

        tokens = quantize_rows(&t->rows, x, NULL, dim, count, d->pre_norm ? &layer->cross_norm : NULL, &layer->cross_q);
        product(&tokens, &layer->cross_q, &to_query, 0, count, 0, panels(&layer->cross_q));
        attend_encoder(d, s, l, t, row, count, dim);
        tokens = quantize_rows(&t->rows, t->attended, NULL, dim, count, NULL, &layer->cross_out);
        product(&tokens, &layer->cross_out, &to_x, 0, count, 0, panels(&layer->cross_out));
        post_norm(d, x, count, dim, &layer->cross_norm);

        const Target to_hidden = {t->rows.hidden, NULL, NULL, up(layer->fc1.n, 16), 1};
        tokens = quantize_rows(&t->rows, x, NULL, dim, count, d->pre_norm ? &layer->ffn_norm : NULL, &layer->fc1);
        product(&tokens, &layer->fc1, &to_hidden, 0, count, 0, panels(&layer->fc1));
        tokens = quantize_rows(&t->rows, t->rows.hidden, NULL, to_hidden.stride, count, NULL, &layer->fc2);
        product(&tokens, &layer->fc2, &to_x, 0, count, 0, panels(&layer->fc2));
        post_norm(d, x, count, dim, &layer->ffn_norm);
    }
    const Target to_logits = {logits, NULL, NULL, d->output.n, 0};
    const Tokens tokens = quantize_rows(&t->rows, x, NULL, dim, count, d->final_norm.weight ? &d->final_norm : NULL, &d->output);
    product(&tokens, &d->output, &to_logits, 0, count, 0, panels(&d->output));
}
