/* Output heads: logits from hidden states, by one matrix product with 8-bit weights, or two with a GELU between. */
#ifndef JE_HEAD_H
#define JE_HEAD_H

#include "decoder.h"

/* 8-bit weights (O, I) in blocks of 32 inputs; K = I / 32 blocks. weight = scale * (quantized - 128).
 *
 * quantized (O, K, 32): 128 stands for zero. scales (O, K): of either sign. bias (O): or NULL. outputs O: a multiple
 * of 4. inputs I: a multiple of 64. The caller owns the arrays. */
typedef struct {
  const uint8_t* quantized;
  const float *scales, *bias;
  int32_t outputs, inputs;
} je_byte_matrix;

/* Compute logits (R, outputs of the last matrix) from hidden (R, inputs of the first matrix).
 *
 * num_matrices: 1, or more with a GELU between each two. rows: R. One thread at a time may use a pool.
 * Return 0, or -1 if there is no memory left. */
JE_PUBLIC int je_head_run(je_pool* pool, const je_byte_matrix* matrices, int32_t num_matrices, int32_t rows,
                          const float* hidden, float* logits);

#endif
