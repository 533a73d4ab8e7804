/* The activations of a product, rounded to 8 bits. */
#ifndef JE_ROWS_H
#define JE_ROWS_H

#include <stdint.h>

#define JE_BLOCK 128 /* inputs that share a scale */
#define JE_TILE 32   /* outputs of a task: two vectors */
#define JE_FEW 8     /* rows; up to here a product reads 4-bit weights once and widens none */

/* Few rows: signed levels, a scale for each block, and how far zero is from the weights' level 0: eight
 * times the sum of a block, in its scale. Many: levels around 128 and one scale. Either way the even inputs
 * of a block come before the odd ones, as nibbles unpack. */
typedef struct {
    int count, blocks; /* rows, and blocks a row */
    uint8_t *levels;   /* (rows, blocks * 128) */
    float *scales;     /* few: (rows, blocks); many: (rows) */
    float *offsets;    /* few: (rows, blocks) */
} je_rows;

/* Set one row to x (inputs). */
void je_round_row(const je_rows *rows, int row, const float *x, int inputs);

/* y = x / rms(x) * weight. */
void je_norm(float *y, const float *x, const float *weight, int width, float epsilon);

#endif
