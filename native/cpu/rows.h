/* The activations of a product, rounded to 8 bits. */
#ifndef JE_ROWS_H
#define JE_ROWS_H

#include <stdint.h>

#define JE_BLOCK 128 /* inputs that share a scale */
#define JE_TILE 32   /* outputs of a task: two vectors */
#define JE_FEW 8     /* rows; up to here a product reads 4-bit weights once and widens none */

/* Signed levels, the even inputs of a block before the odd ones, as nibbles unpack. zeros: -8 times the sum of
 * a block's levels, as the weights' level 8 is their zero. */
typedef struct {
  int count, blocks; /* rows, and blocks a row */
  int8_t* levels;    /* (rows, blocks * 128) */
  float* scales;     /* few: (rows, blocks); many: (blocks, rows) */
  int32_t* zeros;    /* likewise */
} je_rows;

/* Set one row to x (inputs). */
void je_round_row(const je_rows* rows, int row, const float* x, int inputs);

/* y = x / rms(x) * weight. */
void je_norm(float* y, const float* x, const float* weight, int width, float epsilon);

#endif
