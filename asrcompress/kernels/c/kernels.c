// What asrcompress/kernels calls. Compiled on the machine that runs it, for its own instructions.
#include "decoder.h"
#include "depthwise.h"

static uint8_t *aligned(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, (bytes + 63) / 64 * 64) ? NULL : (uint8_t *)memory;
}

// (rows, k) floats, `stride` apart, x w -> out (rows, n). 0 = done, 1 = no memory.
int asrc_linear(const Weight *w, const float *x, int64_t stride, int64_t rows, int relu, float *out, int threads) {
    int failed = 0;
    const int64_t blocks = (rows + BLOCK - 1) / BLOCK;
    const int by_rows = blocks >= threads;
    const Target whole = {out, NULL, NULL, w->n, relu};
    if (threads > 1 && !by_rows) {  // few rows: threads share the outputs
        uint8_t *scratch = aligned(rows_scratch(w->k, 0, w->groups));
        if (!scratch) return 1;
        const Rows r = make_rows(scratch, w->k, 0, w->groups);
        for (int64_t first = 0; first < rows; first += BLOCK) {
            const int count = (int)(rows - first < BLOCK ? rows - first : BLOCK);
            const Tokens tokens = quantize_rows(&r, x + first * stride, NULL, stride, count, NULL, w);
            Target to = whole;
            to.values = out + first * w->n;
#pragma omp parallel for num_threads(threads) schedule(static)
            for (int p = 0; p < panels(w); p++) product(&tokens, w, &to, 0, count, p, p + 1);
        }
        free(scratch);
        return 0;
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint8_t *scratch = aligned(rows_scratch(w->k, 0, w->groups));
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            if (!scratch) continue;
            const Rows r = make_rows(scratch, w->k, 0, w->groups);
            const int64_t first = block * BLOCK;
            const int count = (int)(rows - first < BLOCK ? rows - first : BLOCK);
            const Tokens tokens = quantize_rows(&r, x + first * stride, NULL, stride, count, NULL, w);
            Target to = whole;
            to.values = out + first * w->n;
            product(&tokens, w, &to, 0, count, 0, panels(w));
        }
        free(scratch);
    }
    return failed;
}

// x (batch, time, channels) padded already -> out (batch, time_out, channels).
void asrc_depthwise(const Depthwise *w, const float *x, int64_t batch, int64_t time, int64_t time_out, float *out, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t step = 0; step < batch * time_out; step++)
        depthwise_step(w, x + ((step / time_out) * time + (step % time_out) * w->stride) * w->channels, out + step * w->channels);
}

typedef struct {
    const float *q, *k, *v, *mask, *extra;
    float *out;
    int64_t q_batch, q_head, q_time, k_batch, k_head, k_time, v_batch, v_head, v_time, extra_batch, extra_head, extra_time, out_batch, out_head, out_time;
    int32_t batch, heads, num_queries, num_keys, width, mask_stride;
    float scaling;
} Attention;

INLINE size_t memory_bytes(int num_keys, int width) {
    return (packed_keys_bytes(num_keys, width) + packed_values_bytes(num_keys, width)) / 64 * 64 + 128 + (size_t)2 * 4 * up(num_keys, 64) + (size_t)4 * up(width, 64) + attention_scratch(num_keys, width);
}

static Memory make_memory(uint8_t *scratch, int num_keys, int width, int8_t **row, uint8_t **rest) {
    Memory m;
    m.num_keys = num_keys;
    m.width = width;
    m.key_scale = (float *)scratch;
    m.value_scale = m.key_scale + up(num_keys, 64);
    *row = (int8_t *)(m.value_scale + up(num_keys, 64));
    m.keys = (uint8_t *)*row + 4 * up(width, 64);
    m.values = m.keys + packed_keys_bytes(num_keys, width) / 64 * 64 + 64;
    *rest = m.values + packed_values_bytes(num_keys, width) / 64 * 64;
    return m;
}

// Attention of every head of every batch entry. 0 = done, 1 = no memory.
int asrc_attention(const Attention *a, int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint8_t *scratch = aligned(memory_bytes(a->num_keys, a->width));
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int part = 0; part < a->batch * a->heads; part++) {
            if (!scratch) continue;
            const int64_t b = part / a->heads, h = part % a->heads;
            int8_t *row;
            uint8_t *rest;
            Memory m = make_memory(scratch, a->num_keys, a->width, &row, &rest);
            pack_memory(&m, a->k + b * a->k_batch + h * a->k_head, a->k_time, a->v + b * a->v_batch + h * a->v_head, a->v_time, row);
            attend(&m, a->q + b * a->q_batch + h * a->q_head, a->q_time, a->num_queries, a->scaling,
                   a->mask ? a->mask + b * a->mask_stride : NULL, a->extra ? a->extra + b * a->extra_batch + h * a->extra_head : NULL, a->extra_time, a->out + b * a->out_batch + h * a->out_head, a->out_time, rest);
        }
        free(scratch);
    }
    return failed;
}

// One encoder layer in place: x (time, batch, dim); rows: the places time x batch that are no padding; mask (batch, mask_stride) or NULL.
int asrc_encoder_layer(const EncoderLayer *layer, float *x, const int32_t *rows, int64_t num_rows, int time, int batch, const float *mask, int mask_stride, float *qkv, float *attended, int threads) {
    const int dim = layer->out.n, width = dim / layer->heads;
    const int32_t all[] = {layer->qkv.groups, layer->out.groups, layer->fc1.groups, layer->fc2.groups};
    int groups = 1;
    for (int i = 0; i < 4; i++) groups = all[i] > groups ? all[i] : groups;
    const size_t bytes = rows_scratch(dim, layer->fc1.n, groups);
    const int64_t blocks = (num_rows + BLOCK - 1) / BLOCK;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint8_t *scratch = aligned(bytes), *heads = aligned(memory_bytes(time, width));
        if (!scratch || !heads) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            const Rows r = make_rows(scratch, dim, layer->fc1.n, groups);
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks; block++) {
                const int32_t *some = rows + block * BLOCK;
                const int count = (int)(num_rows - block * BLOCK < BLOCK ? num_rows - block * BLOCK : BLOCK);
                const Tokens tokens = quantize_rows(&r, x, some, dim, count, layer->pre_norm ? &layer->attention_norm : NULL, &layer->qkv);
                const Target to = {qkv, NULL, some, 3 * dim, 0};
                product(&tokens, &layer->qkv, &to, 0, count, 0, panels(&layer->qkv));
            }
#pragma omp for schedule(static)
            for (int part = 0; part < batch * layer->heads; part++) {
                const int64_t b = part / layer->heads, h = part % layer->heads, stride = (int64_t)batch * 3 * dim;
                int8_t *row;
                uint8_t *rest;
                Memory m = make_memory(heads, time, width, &row, &rest);
                const float *q = qkv + b * 3 * dim + h * width;
                pack_memory(&m, q + dim, stride, q + 2 * dim, stride, row);
                attend(&m, q, stride, time, 1.0f / __builtin_sqrtf((float)width), mask ? mask + b * mask_stride : NULL, NULL, 0, attended + b * dim + h * width, (ptrdiff_t)batch * dim, rest);
            }
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks; block++)
                rest_of_layer(layer, &r, x, attended, rows + block * BLOCK, (int)(num_rows - block * BLOCK < BLOCK ? num_rows - block * BLOCK : BLOCK));
        }
        free(scratch);
        free(heads);
    }
    return failed;
}

// Keys and values (time, batch, 2 dim: keys, then values) of the encoder's output -> packed, for every utterance and head. 0 = done, 1 = no memory.
int asrc_pack_memory(const float *kv, int time, int batch, int heads, int dim, const LayerState *to, int threads) {
    const int width = dim / heads;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int8_t *row = (int8_t *)aligned((size_t)4 * up(width, 64));
        if (!row) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int part = 0; part < batch * heads; part++) {
            if (!row) continue;
            const float *k = kv + (ptrdiff_t)(part / heads) * 2 * dim + (part % heads) * width;
            Memory m = {to->cross_keys + part * packed_keys_bytes(time, width), to->cross_values + part * packed_values_bytes(time, width),
                        to->cross_key_scale + (ptrdiff_t)part * up(time, 64), to->cross_value_scale + (ptrdiff_t)part * up(time, 64), time, width};
            pack_memory(&m, k, (ptrdiff_t)batch * 2 * dim, k + dim, (ptrdiff_t)batch * 2 * dim, row);
        }
        free(row);
    }
    return failed;
}

// Bytes of one utterance's and head's packed keys (values) of that many steps.
int64_t asrc_packed_keys_bytes(int num_keys, int width) { return (int64_t)packed_keys_bytes(num_keys, width); }
int64_t asrc_packed_values_bytes(int num_keys, int width) { return (int64_t)packed_values_bytes(num_keys, width); }

// One step: x (rows, dim) embedded tokens, overwritten; logits (rows, vocabulary). 0 = done, 1 = no memory.
int asrc_decoder_step(const Decoder *d, const DecoderState *s, float *x, float *logits, int threads) {
    const int dim = d->layers->out.n;
    int hidden = 0, groups = d->output.groups, failed = 0;
    for (int i = 0; i < d->num_layers; i++) {
        const DecoderLayer *l = d->layers + i;
        const int32_t all[] = {l->qkv.groups, l->out.groups, l->cross_q.groups, l->cross_out.groups, l->fc1.groups, l->fc2.groups};
        for (int j = 0; j < 6; j++) groups = all[j] > groups ? all[j] : groups;
        hidden = l->fc1.n > hidden ? l->fc1.n : hidden;
    }
    const int share = s->rows / threads + 1, chunk = share < BLOCK ? share : BLOCK, chunks = (s->rows + chunk - 1) / chunk;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        StepScratch t;
        uint8_t *memory = aligned(step_scratch(d, s, dim, hidden, groups, NULL, NULL));
        if (memory) step_scratch(d, s, dim, hidden, groups, &t, memory);
        else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int c = 0; c < chunks; c++) {
            if (!memory) continue;
            const int row = c * chunk, count = s->rows - row < chunk ? s->rows - row : chunk;
            decode_rows(d, s, &t, x + (ptrdiff_t)row * dim, row, count, logits + (ptrdiff_t)row * d->output.n);
        }
        free(memory);
    }
    return failed;
}
