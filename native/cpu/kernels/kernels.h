/* The kernels of one instruction set, whose vectors were included before. JE_KERNELS: the name of the table.
 * JE_INSTRUCTIONS: the name of the instruction set. */
#include "math.h"
#include "matmul.h"
#include "rows.h"
#include "queries.h"
#include "few_queries.h"
#include "many_queries.h"
#include "attention.h"
#include "full_attention.h"
#include "peak.h"

const je_kernels JE_KERNELS = {.name = JE_INSTRUCTIONS,
                               .quantize_row = quantize_row,
                               .norm = norm,
                               .matmul = matmul,
                               .prefetch = prefetch,
                               .attend = attend,
                               .layer_norm = layer_norm,
                               .attend_all = attend_all,
                               .add_moments = add_moments,
                               .scale_channels = scale_channels,
                               .multiply_only = multiply_only};
