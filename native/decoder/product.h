/* Products of rounded activations with 4-bit weights. */
#ifndef JE_PRODUCT_H
#define JE_PRODUCT_H

#include <stddef.h>

#include "decoder.h"
#include "rows.h"

/* What becomes of a product p where y is: y = p, y + p, or silu(p) * y. */
typedef enum { JE_STORE, JE_ADD, JE_GATE } je_finish;

/* y (rows, stride): some outputs from `first` on. panel: je_panel_bytes(), for many rows only. */
void je_product(const je_matrix *matrix, const je_rows *rows, int first, int outputs, float *y,
                size_t stride, je_finish finish, int8_t *panel);

/* Of the widened weights of a tile. */
size_t je_panel_bytes(int inputs);

#endif
