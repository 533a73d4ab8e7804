/* Matrix products of 8-bit activations with tiles of weights of 4 or 8 bits. */

/* How many bytes ahead weights are prefetched: into the second-level cache, because the first level keeps too few
 * requests outstanding (docs/cpu-kernels.md). */
#define PREFETCH_BYTES 16384
#define ROWS_PER_PASS 48 /* their sums and one block of their inputs stay in the first-level cache */
#define GROUP_BYTES 128  /* 4-bit weights of 8 inputs or 8-bit weights of 4 inputs, of the tile's 32 outputs */

#if defined(JE_IS_CHECKED)
#undef JE_ROWS_AT_ONCE
#define JE_ROWS_AT_ONCE 2
#define UNROLLED
#define UNROLLED_4
#else
#define UNROLLED _Pragma("GCC unroll 12")
#define UNROLLED_4 _Pragma("GCC unroll 4")
#endif

/* Add the products of one block of 4-bit weights, for JE_HALVES times 16 outputs. x: (count, 128). */
JE_INLINE void dot_nibbles(je_ints sums[JE_ROWS_AT_ONCE][JE_HALVES], const uint8_t* weights, const int8_t* x,
                           const int count) {
  for (int four = 0; four < 16; four += 4) { /* partial sums hold 4 groups */
    je_partial partial[JE_ROWS_AT_ONCE][JE_HALVES];
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < JE_HALVES; h++)
      partial[i][h] = p_begin(sums[i][h]);
    UNROLLED_4 for (int g = four; g < four + 4; g++) {
      je_quads low[JE_HALVES], high[JE_HALVES];
      UNROLLED for (int h = 0; h < JE_HALVES; h++) low[h] = q_low(q_load(weights + g * GROUP_BYTES + 64 * h));
      UNROLLED for (int i = 0; i < count; i++) {
        const je_quads inputs = q_four(x + i * 128 + 8 * g);
        UNROLLED for (int h = 0; h < JE_HALVES; h++) q_dot_nibbles(&partial[i][h], low[h], inputs);
      }
      UNROLLED for (int h = 0; h < JE_HALVES; h++) high[h] = q_high(q_load(weights + g * GROUP_BYTES + 64 * h));
      UNROLLED for (int i = 0; i < count; i++) {
        const je_quads inputs = q_four(x + i * 128 + 8 * g + 4);
        UNROLLED for (int h = 0; h < JE_HALVES; h++) q_dot_nibbles(&partial[i][h], high[h], inputs);
      }
    }
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < JE_HALVES; h++)
      sums[i][h] = p_end(sums[i][h], partial[i][h]);
  }
}

/* The same for 8-bit weights. x: (count, block). */
JE_INLINE void dot_bytes(je_ints sums[JE_ROWS_AT_ONCE][JE_HALVES], const uint8_t* weights, const int8_t* x,
                         const int block, const int count) {
  for (int g = 0; g < block / 4; g++) {
    je_quads whole[JE_HALVES];
    UNROLLED for (int h = 0; h < JE_HALVES; h++) whole[h] = q_load(weights + g * GROUP_BYTES + 64 * h);
    UNROLLED for (int i = 0; i < count; i++) {
      const je_quads inputs = q_four(x + i * block + 4 * g);
      UNROLLED for (int h = 0; h < JE_HALVES; h++) q_dot(&sums[i][h], whole[h], inputs);
    }
  }
}

#ifdef JE_PAIRS
#include "pairs.h" /* dot_block, two rows at once */
#else
/* Add the products of one block of `bits`-bit weights. */
JE_INLINE void dot_block(je_ints sums[JE_ROWS_AT_ONCE][JE_HALVES], const uint8_t* weights, const int8_t* x,
                         const int bits, const int block, const int count) {
  if (bits == 4)
    dot_nibbles(sums, weights, x, count);
  else
    dot_bytes(sums, weights, x, block, count);
}
#endif

/* Add one block's products to y (count, 32): of each output one fused multiply-add. record: the scales and weights. at:
 * the block's first row in rows. */
JE_INLINE void add_block(float* y, const uint8_t* record, const je_rows* rows, size_t at, const int bits,
                         const int block, const int count) {
  const float* scales = (const float*)record;
  const uint8_t* weights = record + JE_TILE * sizeof(float);
#ifdef JE_BYTES_ARE_CENTERED
  const int zero = bits == 4 ? 8 : 0;
#else
  const int zero = bits == 4 ? 8 : 128;
#endif
  for (int half = 0; half < 2; half += JE_HALVES) {
    je_ints sums[JE_ROWS_AT_ONCE][JE_HALVES];
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < JE_HALVES; h++)
      sums[i][h] = i_all(-zero * rows->sums[at + i]);
    dot_block(sums, weights + 64 * half, rows->quantized + at * block, bits, block, count);
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < JE_HALVES; h++) {
      const int output = 16 * (half + h);
      float* sum = y + i * JE_TILE + output;
      const je_floats product = f_mul(f_of(sums[i][h]), f_all(rows->scales[at + i]));
      f_store(sum, f_fma(product, f_load(scales + output), f_load(sum)));
    }
  }
}

/* Call add_block with a number of rows that the compiler knows. */
JE_INLINE void add_rows(float* y, const uint8_t* record, const je_rows* rows, size_t at, const int bits,
                        const int block, int count) {
#define CASE(n)                                                                                          \
  case n:                                                                                                \
    if (n <= JE_ROWS_AT_ONCE) add_block(y, record, rows, at, bits, block, n <= JE_ROWS_AT_ONCE ? n : 1); \
    break;
  switch (count) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) }
#undef CASE
}

/* Multiply `count` rows from `row` on with a tile: y (count, 32). */
JE_INLINE void multiply_tile(float* y, const uint8_t* tile, const je_rows* rows, int row, int count, const int bits,
                             const int block, const uint8_t* end, const uint8_t* next) {
  const size_t bytes = je_record_bytes(bits, block);
  const int groups = (count + JE_ROWS_AT_ONCE - 1) / JE_ROWS_AT_ONCE;
  memset(y, 0, (size_t)count * JE_TILE * sizeof(float));
  for (int b = 0; b < rows->blocks; b++, tile += bytes) {
    const size_t start = (rows->starts ? (size_t)(rows->starts[b] + rows->origin) : (size_t)b * rows->count) + row;
    const uint8_t* ahead = tile + PREFETCH_BYTES < end ? tile + PREFETCH_BYTES : next + (tile + PREFETCH_BYTES - end);
    if (row == 0)
      for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
    for (int group = 0, first = 0; group < groups; group++) {
      const int after = (group + 1) * count / groups;
      add_rows(y + first * JE_TILE, tile, rows, start + first, bits, block, after - first);
      first = after;
    }
  }
}

/* Write 16 products p to y, as the epilogue says. */
JE_INLINE void apply(float* y, je_floats p, je_epilogue epilogue) {
  if (epilogue == JE_ADD) p = f_add(p, f_load(y));
  if (epilogue == JE_GATE) p = f_mul(je_silu(p), f_load(y));
  if (epilogue == JE_GELU) p = je_gelu(p);
  f_store(y, p);
}

/* Write the products (count, 32) of a tile's first `outputs` outputs. bias: of these, or NULL. */
static void write_outputs(float* y, size_t stride, const float* products, const float* bias, int count, int outputs,
                          je_epilogue epilogue) {
  for (int i = 0; i < count; i++, y += stride, products += JE_TILE) {
    float filled[2][JE_TILE] = {{0}, {0}}; /* outputs and bias of the last tile, filled up */
    const int is_whole = outputs == JE_TILE;
    float* target = is_whole ? y : memcpy(filled[0], y, (size_t)outputs * sizeof(float));
    const float* added = bias && !is_whole ? memcpy(filled[1], bias, (size_t)outputs * sizeof(float)) : bias;
    for (int at = 0; at < JE_TILE; at += 16) {
      const je_floats p = f_load(products + at);
      apply(target + at, added ? f_add(p, f_load(added + at)) : p, epilogue);
    }
    if (!is_whole) memcpy(y, target, (size_t)outputs * sizeof(float));
  }
}

static size_t tile_bytes(const je_matrix* matrix) { return je_blocks(matrix) * je_record_bytes(matrix->bits, matrix->block); }

static const uint8_t* first_tile(je_part part) { return part.matrix->tiles + part.first * tile_bytes(part.matrix); }

static void matmul(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue) {
  const je_matrix* matrix = part.matrix;
  const size_t bytes = tile_bytes(matrix);
  const uint8_t *start = first_tile(part), *end = start + part.count * bytes;
  const uint8_t* after = next.count ? first_tile(next) : start; /* in the cache already */
  float products[ROWS_PER_PASS * JE_TILE];
  for (int t = 0; t < part.count; t++, y += JE_TILE) {
    const int first = (part.first + t) * JE_TILE, remaining = matrix->outputs - first;
    const float* bias = matrix->bias ? matrix->bias + first : NULL;
    const int passes = (rows->count + ROWS_PER_PASS - 1) / ROWS_PER_PASS;
    for (int pass = 0, row = 0; pass < passes; pass++) {
      const int count = (pass + 1) * rows->count / passes - row;
      const uint8_t* tile = start + t * bytes;
      if (matrix->bits == 4)
        multiply_tile(products, tile, rows, row, count, 4, 128, end, after);
      else if (matrix->block == 32)
        multiply_tile(products, tile, rows, row, count, 8, 32, end, after);
      else
        multiply_tile(products, tile, rows, row, count, 8, 128, end, after);
      write_outputs(y + row * stride, stride, products, bias, count, remaining < JE_TILE ? remaining : JE_TILE,
                    epilogue);
      row += count;
    }
  }
}

static void prefetch(je_part part) {
  const uint8_t *start = first_tile(part), *end = start + part.count * tile_bytes(part.matrix);
  for (const uint8_t* at = start; at < start + PREFETCH_BYTES && at < end; at += 64) __builtin_prefetch(at, 0, 2);
}
