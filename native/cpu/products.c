#include "products.h"

static int tiles_per_part(const je_product* product) {
  return product->rows.count * product->repeats > JE_FEW_ROWS ? 1 : 2;
}

/* Return a piece's part of the matrix, and set *repeat to its row of the image. Pieces that follow each other share a part,
 * which is then in the cache. If the number is negative, the part has no tiles. */
static je_part part_of(const je_product* product, int number, int* repeat) {
  const int longest = tiles_per_part(product), first = number / product->repeats * longest;
  if (number < 0) return (je_part){0};
  *repeat = number % product->repeats;
  const int remaining = je_tiles(product->matrix) - first;
  return (je_part){product->matrix, first, remaining < longest ? remaining : longest};
}

static void product_task(void* context, je_piece piece) {
  const je_product* product = context;
  int repeat = 0, next_repeat = 0;
  const je_part part = part_of(product, piece.number, &repeat), next = part_of(product, piece.next, &next_repeat);
  je_rows rows = product->rows;
  rows.origin += repeat * product->step;
  if (!piece.is_next) product->kernels->prefetch(part);
  float* y = product->y + (size_t)repeat * product->y_step + part.first * JE_TILE;
  product->kernels->matmul(part, next, &rows, y, product->stride, product->epilogue);
}

void je_product_run(je_pool* pool, const je_product* product) {
  const int longest = tiles_per_part(product), parts = (je_tiles(product->matrix) + longest - 1) / longest;
  je_pool_run(pool, product_task, (void*)product, parts * product->repeats);
}

static void quantize_task(void* context, je_piece piece) {
  const je_quantization* q = context;
  const size_t at = (size_t)piece.number * q->width;
  const float* x = q->x + at;
  if (q->weight) {
    q->kernels->layer_norm(q->normed + at, x, q->weight, q->bias, q->width, q->epsilon);
    x = q->normed + at;
  }
  q->kernels->quantize_row(&q->rows, piece.number, x, q->width);
}

void je_quantize(je_pool* pool, const je_quantization* quantization) {
  const int count = quantization->rows.count;
  if (count > JE_FEW_ROWS)
    je_pool_run(pool, quantize_task, (void*)quantization, count);
  else /* waking the other threads would take longer */
    for (int i = 0; i < count; i++) quantize_task((void*)quantization, (je_piece){.number = i, .next = -1});
}

void* je_reserve(char* memory, size_t* used, size_t bytes) {
  void* buffer = memory ? memory + *used : NULL;
  *used += (bytes + 63) / 64 * 64;
  return buffer;
}

void je_reserve_rows(je_rows* rows, char* memory, size_t* used, size_t count, size_t blocks, size_t block) {
  rows->quantized = je_reserve(memory, used, count * blocks * block);
  rows->scales = je_reserve(memory, used, count * blocks * sizeof(float));
  rows->sums = je_reserve(memory, used, count * blocks * sizeof(int32_t));
}

/* The arguments of multiply_task. */
typedef struct {
  const je_kernels* kernels;
  int repeats;
  int64_t operations;
} multiply_run;

static void multiply_task(void* context, je_piece piece) {
  multiply_run* run = context;
  (void)piece;
  __atomic_fetch_add(&run->operations, run->kernels->multiply_only(run->repeats), __ATOMIC_RELAXED);
}

int64_t je_pool_multiply(je_pool* pool, int32_t repeats) {
  multiply_run run = {je_kernels_in_use(), repeats, 0};
  je_pool_run(pool, multiply_task, &run, 16 * je_pool_size(pool));
  return run.operations;
}
