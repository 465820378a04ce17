/* See ${name}.h. Products are of 8-bit codes with 32-bit sums; what rescales them is a multiplier and
 * a right shift that rounds half up, as in the Python that this was made from, bit for bit. */
#include "${name}.h"

#define NUM_MELS ${num_mels}
#define KERNEL_FRAMES ${kernel_frames}
#define STEP_FRAMES ${step_frames}
#define KEPT_FRAMES ${kept_frames}
#define NUM_BANDS ${num_bands}
#define BAND_STRIDE ${band_stride}
#define NUM_FEATURES ${num_features}
#define NUM_LAYERS ${num_layers}
#define HIDDEN ${hidden}
#define WINDOW_STEPS ${upper}_WINDOW_STEPS

/* (code - old_zero) times a real number, plus new_zero, between low and high. */
typedef struct {
    int32_t multiplier, old_zero, new_zero, low, high;
    uint8_t shift;
} scaling;

/* A weight of rows x (groups * group_size) codes and what goes with it. Codes are a stream of code_bits each,
 * least significant first; with zeros_apart a bit says before each code that it is there, or that the weight is 0 (and a byte follows them); offsets, one a row, are offset_low and
 * offset_bytes more, in units of 2^offset_shift. Where a row and group have no
 * multiplier (or zero point) of their own, all share the first one. */
typedef struct {
    const uint8_t *codes;
    const int32_t *multipliers;
    const int8_t *zero_points;
    const uint8_t *offsets;
    int64_t offset_low;
    uint16_t rows, groups, group_size;
    uint8_t own_multipliers, own_zero_points;
    uint8_t zeros_apart, code_bits, code_step, offset_bytes, offset_shift, shift;
    int8_t code_low;
    int16_t input_zero, zero, low, high;
} product;

typedef struct {
    int32_t knot, add;
} correction;

/* span / (1 + exp(-knot * rate)) - base; codes are 2^segment_bits to a knot. */
typedef struct {
    uint64_t rate, span;
    int64_t base;
    const correction *corrections;
    int32_t mirror, low, high;
    uint8_t num_corrections, segment_bits;
} curve;

typedef struct {
    scaling input;
    product from_input, from_hidden;
    curve sigmoid, tanh;
    int32_t gate_low, gate_high;
} layer;

${data}
static const uint32_t whole_powers[64] = {${whole_powers}};
static const uint32_t part_powers[64] = {${part_powers}};

static int32_t clamp(int64_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : (int32_t)x;
}

/* x / 2^shift, rounded half up; written so that no negative number is shifted. */
static int64_t shift_right(int64_t x, unsigned shift)
{
    if (shift == 0)
        return x;
    x += (int64_t)1 << (shift - 1);
    return x >= 0 ? x >> shift : ~(~x >> shift);
}

static int32_t rescale(const scaling *s, int64_t x)
{
    return clamp(shift_right((x - s->old_zero) * s->multiplier, s->shift) + s->new_zero, s->low, s->high);
}

static void rescale_all(const scaling *s, const int16_t *x, int8_t *out, uint16_t count)
{
    uint16_t i;
    for (i = 0; i < count; i++)
        out[i] = (int8_t)rescale(s, x[i]);
}

static int64_t offset_of(const product *p, uint32_t row)
{
    const uint8_t *bytes = p->offsets + row * p->offset_bytes;
    uint64_t above = 0;
    uint8_t i;
    for (i = 0; i < p->offset_bytes; i++)
        above |= (uint64_t)bytes[i] << (8 * i);
    return p->offset_low + (int64_t)(above << p->offset_shift);
}

/* The weight times each of `positions` stretches of x, `stride` apart -> out[row * positions + position]. */
static void multiply(const product *p, const int8_t *x, uint16_t positions, uint16_t stride, int16_t *out)
{
    const uint8_t *next = p->codes;
    const uint32_t apart = p->zeros_apart, code_bits = p->code_bits, mask = ((uint32_t)1 << code_bits) - 1;
    const int32_t input_zero = p->input_zero, step = p->code_step;
    uint32_t buffer = 0, held = 0, row, group, i, at;
    int64_t totals[NUM_BANDS];
    int32_t sums[NUM_BANDS];
    for (row = 0; row < p->rows; row++) {
        const int8_t *from = x;
        int64_t offset = offset_of(p, row);
        for (at = 0; at < positions; at++)
            totals[at] = offset;
        for (group = 0; group < p->groups; group++) {
            uint32_t own = row * p->groups + group;
            int32_t low = p->code_low - (p->zero_points ? p->zero_points[p->own_zero_points ? own : 0] : 0), first = 0;
            for (at = 0; at < positions; at++)
                sums[at] = 0;
            for (i = p->group_size; i; i--) {
                const int8_t *number = from++;
                uint32_t bits;
                int32_t code;
                while (held < code_bits + apart) {
                    buffer |= (uint32_t)*next++ << held;
                    held += 8;
                }
                bits = buffer;
                buffer >>= apart;
                held -= apart;
                if (apart && !(bits & 1))
                    continue;
                code = (int32_t)(buffer & mask) * step + low;
                buffer >>= code_bits;
                held -= code_bits;
                first += code * (*number - input_zero);
                for (at = 1; at < positions; at++)
                    sums[at] += code * (*(number += stride) - input_zero);
            }
            sums[0] = first;
            for (at = 0; at < positions; at++)
                totals[at] += (int64_t)sums[at] * p->multipliers[p->own_multipliers ? own : 0];
        }
        for (at = 0; at < positions; at++)
            *out++ = (int16_t)clamp(shift_right(totals[at], p->shift) + p->zero, p->low, p->high);
    }
}

/* 2^40 exp(-count s), where rate is s / ln 2 of 48 fraction bits. */
static uint64_t exponential(uint32_t count, uint64_t rate)
{
    uint64_t exponent = count * rate, rest = exponent >> 4 & 0xFFFFFFFFu, power;
    unsigned halvings = (unsigned)(exponent >> 48);
    if (halvings > 40)
        return 0;
    power = ((uint64_t)1 << 40) - ((uint64_t)whole_powers[exponent >> 42 & 63] << 7);
    power -= ((power >> 9) * part_powers[exponent >> 36 & 63]) >> 29;
    rest = (rest * ${ln2}u) >> 32;
    rest -= (rest * rest) >> 45;
    power -= ((power >> 9) * rest) >> 35;
    return power >> halvings;
}

static int32_t correct(const correction *c, uint8_t count, int32_t knot)
{
    uint8_t i;
    for (i = 0; i < count; i++)
        if (c[i].knot == knot)
            return c[i].add;
    return 0;
}

static int32_t knot_value(const curve *c, int32_t knot)
{
    uint32_t count = (uint32_t)(knot < 0 ? -knot : knot);
    uint64_t divisor = (((uint64_t)1 << 40) + exponential(count, c->rate) + 8) >> 4;
    uint64_t quotient = c->span / divisor;
    uint64_t fraction = ((c->span - quotient * divisor) << 16) / divisor;
    int32_t value = (int32_t)shift_right((int64_t)((quotient << 16) + fraction) - c->base, 16);
    return (knot < 0 ? c->mirror - value : value) + correct(c->corrections, c->num_corrections, knot);
}

static int32_t look_up(const curve *c, int32_t code)
{
    int32_t knot = code >= 0 ? code >> c->segment_bits : ~(~code >> c->segment_bits);
    int32_t codes = (int32_t)1 << c->segment_bits, rest = code - knot * codes, left = knot_value(c, knot);
    int64_t value = (int64_t)left * codes;
    if (rest)
        value += (int64_t)(knot_value(c, knot + 1) - left) * rest;
    return clamp(shift_right(value, 8u + c->segment_bits), c->low, c->high);
}

/* One step of one layer of the GRU (hidden codes have 15 fraction bits): h' = n + z (h - n). */
static void advance(const layer *l, ${name}_state *s, int16_t *hidden)
{
    uint16_t i;
    multiply(&l->from_input, s->operand, 1, 0, s->gates_in);
    rescale_all(&hidden_scaling, hidden, s->operand, HIDDEN);
    multiply(&l->from_hidden, s->operand, 1, 0, s->gates_hidden);
    for (i = 0; i < HIDDEN; i++) {
        int32_t reset = s->gates_in[i] + s->gates_hidden[i];
        int32_t update = s->gates_in[HIDDEN + i] + s->gates_hidden[HIDDEN + i];
        int32_t candidate;
        reset = look_up(&l->sigmoid, clamp(reset, l->gate_low, l->gate_high));
        update = look_up(&l->sigmoid, clamp(update, l->gate_low, l->gate_high));
        candidate = (int32_t)shift_right((int64_t)reset * s->gates_hidden[2 * HIDDEN + i], 15);
        candidate = clamp((int64_t)s->gates_in[2 * HIDDEN + i] + candidate, l->gate_low, l->gate_high);
        candidate = look_up(&l->tanh, candidate);
        hidden[i] = (int16_t)clamp(
            candidate + shift_right((int64_t)update * (hidden[i] - candidate), 15), -32767, 32767);
    }
}

/* Keep a frame; when the convolution's window is full: its step of the GRU, and what the attention needs of it. */
static int hear(${name}_state *s, const ${name}_input *frame)
{
    int16_t *last = s->hidden + (NUM_LAYERS - 1) * HIDDEN;
    uint16_t i, at;
    if (s->skip) {
        s->skip--;
        return 0;
    }
    for (i = 0; i < NUM_MELS; i++)
        s->frames[i * KERNEL_FRAMES + s->num_frames] = (int8_t)rescale(&frame_scaling, frame[i]);
    if (++s->num_frames < KERNEL_FRAMES)
        return 0;
    multiply(&convolution, s->frames, NUM_BANDS, BAND_STRIDE, s->gates_in);
    s->num_frames = KEPT_FRAMES;
    s->skip = KEPT_FRAMES ? 0 : STEP_FRAMES - KERNEL_FRAMES;
    for (i = 0; i + STEP_FRAMES < NUM_MELS * KERNEL_FRAMES; i++)
        s->frames[i] = s->frames[i + STEP_FRAMES]; /* all bins' rows lie in line: each moves, its last frames are to come */
    for (i = 0; i < NUM_LAYERS; i++) {
        const int16_t *from = i ? s->hidden + (i - 1) * HIDDEN : s->gates_in;
        rescale_all(&layers[i].input, from, s->operand, i ? HIDDEN : NUM_FEATURES);
        advance(&layers[i], s, s->hidden + i * HIDDEN);
    }
    at = s->next_step;
    s->next_step = (uint16_t)((at + 1) % WINDOW_STEPS);
    s->num_steps = (uint16_t)(s->num_steps + (s->num_steps < WINDOW_STEPS));
    rescale_all(&value_scaling, last, s->values + at * HIDDEN, HIDDEN);
    rescale_all(&energy_input, last, s->operand, HIDDEN);
    multiply(&energy_hidden, s->operand, 1, 0, s->gates_in);
    for (i = 0; i < HIDDEN; i++)
        s->operand[i] = (int8_t)rescale(&score_input, look_up(&energy_tanh, s->gates_in[i]));
    multiply(&energy_score, s->operand, 1, 0, s->energies + at);
    return 1;
}

/* exp(-count s) with 15 fraction bits. */
static uint32_t weight_of(uint32_t count)
{
    return (uint32_t)((exponential(count, softmax_rate) + ((uint64_t)1 << 24)) >> 25)
        + (uint32_t)correct(softmax_corrections, NUM_SOFTMAX_CORRECTIONS, (int32_t)count);
}

/* Softmax over the steps that are kept, their weighted sum, and the classes. */
static void classify(${name}_state *s, int16_t *logits)
{
    int32_t largest = -32768, total = 0;
    int64_t inverse;
    uint16_t i, step;
    for (step = 0; step < s->num_steps; step++)
        if (s->energies[step] > largest)
            largest = s->energies[step];
    for (step = 0; step < s->num_steps; step++) {
        uint32_t below = (uint32_t)(largest - s->energies[step]);
        uint32_t weight = (weight_of(below & 0xFF00u) * weight_of(below & 255) + (1u << 14)) >> 15;
        s->weights[step] = (int8_t)((weight * WEIGHT_MAX + (1u << 14)) >> 15);
        total += s->weights[step];
    }
    total = total < 1 ? 1 : total;
    inverse = (((int64_t)1 << 40) + (total >> 1)) / total;
    for (i = 0; i < HIDDEN; i++) {
        int32_t sum = 0;
        for (step = 0; step < s->num_steps; step++)
            sum += s->weights[step] * s->values[step * HIDDEN + i];
        s->gates_in[i] = (int16_t)rescale(&attended_scaling, shift_right(sum * inverse, 24));
    }
    rescale_all(&class_input, s->gates_in, s->operand, HIDDEN);
    multiply(&classes, s->operand, 1, 0, logits);
}

void ${name}_start(${name}_state *state)
{
    uint8_t *bytes = (uint8_t *)state;
    uint32_t i;
    for (i = 0; i < sizeof *state; i++)
        bytes[i] = 0;
}

void ${name}_forget(${name}_state *state)
{
    uint16_t i;
    for (i = 0; i < NUM_LAYERS * HIDDEN; i++)
        state->hidden[i] = 0;
    state->num_steps = state->next_step = 0;
}

int ${name}_feed(${name}_state *state, const ${name}_input frame[NUM_MELS], int16_t logits[2])
{
    if (!hear(state, frame))
        return 0;
    classify(state, logits);
    return 1;
}

int ${name}_classify(${name}_state *state, const ${name}_input *frames, uint16_t num_frames, int16_t logits[2])
{
    uint32_t i;
    ${name}_start(state);
    if (num_frames < KERNEL_FRAMES || (num_frames - KERNEL_FRAMES) / STEP_FRAMES >= WINDOW_STEPS)
        return 0;
    for (i = 0; i < num_frames; i++)
        hear(state, frames + i * NUM_MELS);
    classify(state, logits);
    return 1;
}

uint16_t ${name}_probability(const int16_t logits[2])
{
    return (uint16_t)knot_value(&probability, (int32_t)logits[1] - logits[0]);
}
