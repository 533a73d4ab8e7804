/* Logits from hidden states: one product with 8-bit weights, or two with a GELU between. */
#ifndef JE_HEAD_H
#define JE_HEAD_H

#include "decoder.h"

/* Weights (O, I) in blocks of 32 inputs: levels (O, K, 32), 128 standing for zero; scales (O, K), of either
 * sign; bias (O) or NULL. O is a multiple of 4, I of 64, K = I / 32. */
typedef struct {
  const uint8_t* levels;
  const float *scales, *bias;
  int32_t outputs, inputs;
} je_byte_matrix;

/* hidden (R, inputs of the first) to logits (R, outputs of the last); one thread at a time for one pool.
 * 0, or -1 when there is no memory left. */
JE_PUBLIC int je_head_run(je_pool* pool, const je_byte_matrix* matrices, int32_t num_matrices, int32_t rows,
                          const float* hidden, float* logits);

#endif
