// Whole transformer layers (Vaswani et al. 2017) over packed weights, a block of rows at a time so that what passes between products stays in cache.
#pragma once
#include <omp.h>
#include <stdlib.h>

#include "attention.h"

#define BLOCK 96  // rows: 16 tiles; 96 x 2048 hidden floats are 0.8 MB

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

typedef struct {
    Norm attention_norm, ffn_norm;
    Weight qkv, out, fc1, fc2;
    int32_t heads, pre_norm;
} EncoderLayer;

// Scratch of one thread for a block of rows.
typedef struct {
    float *normed, *hidden, *scale;
    int32_t *sums;
    int8_t *codes;
} Rows;

static Rows make_rows(uint8_t *scratch, int dim, int hidden, int groups) {
    Rows r;
    r.normed = (float *)scratch;
    r.hidden = r.normed + (size_t)BLOCK * up(dim, 16);
    r.scale = r.hidden + (size_t)BLOCK * up(hidden, 16);
    r.sums = (int32_t *)(r.scale + BLOCK);
    r.codes = (int8_t *)(r.sums + (size_t)BLOCK * groups);
    return r;
}

INLINE size_t rows_scratch(int dim, int hidden, int groups) {
    const int widest = dim > hidden ? dim : hidden;
    return (size_t)BLOCK * (4 * (up(dim, 16) + up(hidden, 16) + 1 + groups) + up(widest, 64) + 4 * groups) + 4096;
}

// Rows x + rows[i] * stride, normed where norm is given, put on their grids for a product with w.
static Tokens quantize_rows(const Rows *r, const float *x, const int32_t *rows, ptrdiff_t stride, int count, const Norm *norm, const Weight *w) {
    const ptrdiff_t code_stride = up(4 * w->k4 * w->groups, 64);
    for (int i = 0; i < count; i++) {
        const float *row = x + (rows ? rows[i] : i) * stride;
        if (norm) {
            layer_norm_row(row, w->k, norm->weight, norm->bias, norm->eps, r->normed);
            row = r->normed;
        }
        quantize_row(row, w->k, w->groups, r->codes + i * code_stride, r->scale + i, r->sums + i * w->groups);
    }
    const Tokens tokens = {r->codes, r->scale, r->sums, code_stride};
    return tokens;
}

INLINE int panels(const Weight *w) { return (w->n + PANEL - 1) / PANEL; }

static void norm_rows(float *x, const int32_t *rows, ptrdiff_t stride, int count, int n, const Norm *norm) {
    for (int i = 0; i < count; i++) layer_norm_row(x + rows[i] * stride, n, norm->weight, norm->bias, norm->eps, x + rows[i] * stride);
}

// What follows attention in a block of rows: x += out(attended); x += fc2(relu(fc1(norm(x)))).
static void rest_of_layer(const EncoderLayer *layer, const Rows *r, float *x, const float *attended, const int32_t *rows, int count) {
    const int dim = layer->out.n;
    Tokens tokens = quantize_rows(r, attended, rows, dim, count, NULL, &layer->out);
    const Target to_x = {x, x, rows, dim, 0};
    product(&tokens, &layer->out, &to_x, 0, count, 0, panels(&layer->out));
    if (!layer->pre_norm) norm_rows(x, rows, dim, count, dim, &layer->attention_norm);
    tokens = quantize_rows(r, x, rows, dim, count, layer->pre_norm ? &layer->ffn_norm : NULL, &layer->fc1);
    const Target to_hidden = {r->hidden, NULL, NULL, up(layer->fc1.n, 16), 1};
    product(&tokens, &layer->fc1, &to_hidden, 0, count, 0, panels(&layer->fc1));
    tokens = quantize_rows(r, r->hidden, NULL, to_hidden.stride, count, NULL, &layer->fc2);
    product(&tokens, &layer->fc2, &to_x, 0, count, 0, panels(&layer->fc2));
    if (!layer->pre_norm) norm_rows(x, rows, dim, count, dim, &layer->ffn_norm);
}
