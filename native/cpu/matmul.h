/* Matrix products of 8-bit quantized activations with 4-bit weights. */
#ifndef JE_MATMUL_H
#define JE_MATMUL_H

#include <stddef.h>

#include "decoder.h"
#include "rows.h"

/* What is written to y for a product p: JE_STORE: p; JE_ADD: y + p; JE_GATE: silu(p) * y. */
typedef enum { JE_STORE, JE_ADD, JE_GATE } je_epilogue;

/* Outputs first ... first + outputs - 1 of a matrix. With more than JE_FEW_ROWS rows, at most JE_TILE outputs. */
typedef struct {
  const je_matrix* matrix;
  int first, outputs;
} je_part;

/* Multiply the rows with one part of a matrix.
 *
 * next: the part that the same thread most likely takes next; its first weights are prefetched. No outputs: none.
 * rows: the quantized activations. y (rows, stride): float32; points to the part's first output of the first row.
 * stride: floats from one row of y to the next. panel: scratch of je_panel_bytes() bytes, aligned to 64 bytes; used
 * with more than JE_FEW_ROWS rows only. */
void je_matmul(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue,
               uint8_t* panel);

/* Prefetch the first weights of a part, if no call of je_matmul named it as its next part. */
void je_prefetch(je_part part, const je_rows* rows);

/* Return the size in bytes of a panel: the weights of JE_TILE outputs, unpacked to one byte each, and their scales. */
size_t je_panel_bytes(int inputs);

#endif
