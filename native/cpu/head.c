#include "head.h"

#include "products.h"
#include "system.h"

/* Place the buffers in memory and return their total size in bytes. If memory is NULL, only count. hidden: of the results
 * between two matrices. */
static size_t lay_out(je_rows* inputs, float** hidden, const je_matrix* matrices, int count, size_t rows, char* memory) {
  size_t widest = 0, used = 0; /* widest: numbers that the inputs of a matrix fill, whole blocks */
  for (int i = 0; i < count; i++) {
    const size_t filled = je_blocks(&matrices[i]) * (size_t)matrices[i].block;
    widest = filled > widest ? filled : widest;
  }
  *hidden = je_reserve(memory, &used, rows * widest * sizeof(float));
  je_reserve_rows(inputs, memory, &used, rows, widest / 32, 32); /* 32: no block is smaller */
  return used;
}

int je_head_run(je_pool* pool, const je_matrix* matrices, int32_t num_matrices, int32_t rows, const float* hidden,
                float* logits) {
  je_rows inputs = {.count = rows};
  float* between;
  char* memory = je_allocate_aligned(lay_out(&inputs, &between, matrices, num_matrices, (size_t)rows, NULL));
  if (!memory) return -1;
  lay_out(&inputs, &between, matrices, num_matrices, (size_t)rows, memory);
  const je_kernels* kernels = je_kernels_in_use();
  for (int i = 0; i < num_matrices; i++) {
    const int is_last = i + 1 == num_matrices;
    const je_matrix* matrix = &matrices[i];
    inputs.block = matrix->block;
    inputs.blocks = (int)je_blocks(matrix);
    const je_quantization quantization = {
        .kernels = kernels, .rows = inputs, .x = i ? between : hidden, .width = matrix->inputs};
    je_quantize(pool, &quantization);
    const je_product product = {.kernels = kernels,
                                .matrix = matrix,
                                .rows = inputs,
                                .repeats = 1,
                                .y = is_last ? logits : between,
                                .stride = (size_t)matrix->outputs,
                                .epilogue = is_last ? JE_STORE : JE_GELU};
    je_product_run(pool, &product);
  }
  je_free_aligned(memory);
  return 0;
}
