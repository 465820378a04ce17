/* A keyword spotter in integers: log-mel frames in, logits out. Written by asrcompress from
 * ${artifact} (sha256 ${sha256}).
 *
 * No floating point, no allocation, no library but the compiler's own. All memory is in
 * ${name}_state (${state_bytes} bytes); each microphone needs one of its own.
 *
 * A frame is ${num_mels} codes, lowest mel bin first: log(clamp(mel energy, 1e-9, 1e9)) divided by
 * ${upper}_INPUT_NUMERATOR / ${upper}_INPUT_DENOMINATOR, plus ${upper}_INPUT_ZERO, rounded to the nearest
 * (halves to even) and held between ${input_low} and ${input_high}.
 * Audio: ${sample_rate_hz} Hz, a window of ${window_samples} samples every ${hop_samples}.
 */
#ifndef ${upper}_H
#define ${upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ${upper}_NUM_MELS ${num_mels}
#define ${upper}_KERNEL_FRAMES ${kernel_frames} /* frames before the first step */
#define ${upper}_STEP_FRAMES ${step_frames} /* frames from step to step */
#define ${upper}_WINDOW_STEPS ${window_steps} /* steps that the attention sees, at most; may be changed */
#define ${upper}_NUM_CLASSES 2 /* other, keyword */
#define ${upper}_INPUT_NUMERATOR ${input_numerator}
#define ${upper}_INPUT_DENOMINATOR ${input_denominator}
#define ${upper}_INPUT_ZERO ${input_zero}
#define ${upper}_LOGIT_NUMERATOR ${logit_numerator} /* logit = (code - zero) * numerator / denominator */
#define ${upper}_LOGIT_DENOMINATOR ${logit_denominator}
#define ${upper}_LOGIT_ZERO ${logit_zero}

typedef int${input_width}_t ${name}_input;

/* To be looked at by nobody: ${name}_start fills it. */
typedef struct {
    int16_t hidden[${num_layers} * ${hidden}];
    int16_t energies[${upper}_WINDOW_STEPS];
    int16_t gates_in[${gates_size}];
    int16_t gates_hidden[3 * ${hidden}];
    uint16_t num_frames, skip, num_steps, next_step;
    int8_t frames[${num_mels} * ${kernel_frames}];
    int8_t values[${upper}_WINDOW_STEPS * ${hidden}];
    int8_t weights[${upper}_WINDOW_STEPS];
    int8_t operand[${operand_size}];
} ${name}_state;

/* Begin: silence before the first frame does not count, ${upper}_KERNEL_FRAMES have to come. */
void ${name}_start(${name}_state *state);

/* Forget what was heard, but not the frames that wait for their step. */
void ${name}_forget(${name}_state *state);

/* Hear one frame of a stream. Returns 1 and fills `logits` when it completes a step, else 0. */
int ${name}_feed(${name}_state *state, const ${name}_input frame[${upper}_NUM_MELS],
    int16_t logits[${upper}_NUM_CLASSES]);

/* Classify a whole clip, frame after frame; starts `state` anew. Returns 1, or 0 where the clip has
 * fewer frames than one step needs or more than ${upper}_WINDOW_STEPS steps take. */
int ${name}_classify(${name}_state *state, const ${name}_input *frames, uint16_t num_frames,
    int16_t logits[${upper}_NUM_CLASSES]);

/* The keyword's probability, 0 to 32768. */
uint16_t ${name}_probability(const int16_t logits[${upper}_NUM_CLASSES]);

#ifdef __cplusplus
}
#endif

#endif
