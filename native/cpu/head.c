#include "head.h"

#include <stdlib.h>

#include "kernels/table.h"
#include "pool.h"

#define TILES_PER_PART 2

/* One matrix product of je_head_run. */
typedef struct {
  const je_kernels* kernels;
  const je_matrix* matrix;
  const je_rows* rows;
  float* y; /* (rows, outputs) */
  je_epilogue epilogue;
} head_run;

static je_part part_of(const je_matrix* matrix, int number) {
  const int tiles = (matrix->outputs + JE_TILE - 1) / JE_TILE, first = number * TILES_PER_PART;
  if (number < 0) return (je_part){0};
  return (je_part){matrix, first, tiles - first < TILES_PER_PART ? tiles - first : TILES_PER_PART};
}

static void matmul_task(void* context, je_piece piece) {
  const head_run* run = context;
  const je_part part = part_of(run->matrix, piece.number);
  if (!piece.is_next) run->kernels->prefetch(part);
  run->kernels->matmul(part, part_of(run->matrix, piece.next), run->rows, run->y + part.first * JE_TILE,
                       (size_t)run->matrix->outputs, run->epilogue);
}

/* Return the numbers that the inputs of a matrix fill, whole blocks. */
static size_t filled(const je_matrix* matrix) { return je_blocks(matrix) * (size_t)je_block(matrix->bits); }

int je_head_run(je_pool* pool, const je_matrix* matrices, int32_t num_matrices, int32_t rows, const float* hidden,
                float* logits) {
  const size_t count = (size_t)rows;
  size_t widest = 0; /* number of inputs of any matrix */
  for (int i = 0; i < num_matrices; i++) widest = filled(&matrices[i]) > widest ? filled(&matrices[i]) : widest;
  const size_t numbers = count * widest, blocks = numbers / 32;
  float* memory = malloc((numbers + 2 * blocks) * sizeof(float) + numbers);
  if (!memory) return -1;
  je_rows inputs = {.count = rows, .scales = memory + numbers, .sums = (int32_t*)(memory + numbers + blocks)};
  inputs.quantized = (int8_t*)(memory + numbers + 2 * blocks);
  const je_kernels* kernels = je_kernels_in_use();
  for (int i = 0; i < num_matrices; i++) {
    const int is_last = i + 1 == num_matrices;
    inputs.block = je_block(matrices[i].bits);
    inputs.blocks = (int)je_blocks(&matrices[i]);
    for (int row = 0; row < rows; row++)
      kernels->quantize_row(&inputs, row, (i ? memory : hidden) + (size_t)row * matrices[i].inputs,
                            matrices[i].inputs);
    head_run run = {kernels, &matrices[i], &inputs, is_last ? logits : memory, is_last ? JE_STORE : JE_GELU};
    je_pool_run(pool, matmul_task, &run,
                (matrices[i].outputs + TILES_PER_PART * JE_TILE - 1) / (TILES_PER_PART * JE_TILE));
  }
  free(memory);
  return 0;
}
