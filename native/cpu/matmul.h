/* Products of rounded activations with 4-bit weights. */
#ifndef JE_MATMUL_H
#define JE_MATMUL_H

#include <stddef.h>

#include "decoder.h"
#include "rows.h"

/* What becomes of a product p where y is: y = p, y + p, or silu(p) * y. */
typedef enum { JE_STORE, JE_ADD, JE_GATE } je_epilogue;

/* Some outputs of a matrix, from `first` on; of many rows a tile's. */
typedef struct {
  const je_matrix* matrix;
  int first, outputs;
} je_part;

/* y (rows, stride): where the part's first output goes. next: the part that the same thread takes next, or
 * one of no outputs; its first weights are asked for in time. panel: je_panel_bytes(), for many rows only. */
void je_matmul(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue,
               uint8_t* panel);

/* Ask for the first weights of a part that no other came before. */
void je_prefetch(je_part part, const je_rows* rows);

/* Of the widened weights of a tile. */
size_t je_panel_bytes(int inputs);

#endif
