/* Output heads: logits from hidden states, by one matrix product with 8-bit weights, or two with a GELU between. */
#ifndef JE_HEAD_H
#define JE_HEAD_H

#include "decoder.h"

/* Compute logits (R, outputs of the last matrix) from hidden (R, inputs of the first matrix).
 *
 * num_matrices: 1, or more with a GELU between each two. rows: R. One thread at a time may use a pool.
 * Return 0, or -1 if there is no memory left. */
JE_PUBLIC int je_head_run(je_pool* pool, const je_matrix* matrices, int32_t num_matrices, int32_t rows,
                          const float* hidden, float* logits);

#endif
