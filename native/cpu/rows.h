/* Activations of a matrix product, quantized to 8 bits in blocks of 128. */
#ifndef JE_ROWS_H
#define JE_ROWS_H

#include <stdint.h>

#define JE_BLOCK 128 /* inputs that share a scale */
#define JE_TILE 32   /* outputs computed together: two vectors */
/* Up to this many rows, weights are read once as they are. With more rows they are unpacked to bytes first. */
#define JE_FEW_ROWS 8

/* Quantized rows. The even inputs of a block stand before the odd ones: that is the order in which nibbles unpack.
 * zeros: -8 times the sum of a block's quantized values, because a 4-bit weight of 8 stands for zero. */
typedef struct {
  int count, blocks; /* number of rows; blocks per row */
  int8_t* quantized; /* (rows, blocks * 128) */
  float* scales;     /* up to JE_FEW_ROWS rows: (rows, blocks); more: (blocks, rows) */
  int32_t* zeros;    /* laid out as scales */
} je_rows;

/* Quantize x (inputs) and store it as this row. The last block is filled with zeros. */
void je_quantize_row(const je_rows* rows, int row, const float* x, int inputs);

/* RMSNorm: y = x / sqrt(mean(x^2) + epsilon) * weight, each of `width` floats. */
void je_norm(float* y, const float* x, const float* weight, int width, float epsilon);

#endif
