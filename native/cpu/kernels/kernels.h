/* The kernels of one instruction set, whose vectors were included before. JE_KERNELS: the name of the table.
 * JE_INSTRUCTIONS: the name of the instruction set. */
#include "math.h"
#include "rows.h"
#include "matmul.h"
#include "attention.h"

const je_kernels JE_KERNELS = {.name = JE_INSTRUCTIONS,
                               .quantize_row = quantize_row,
                               .norm = norm,
                               .matmul = matmul,
                               .prefetch = prefetch,
                               .attend = attend};
