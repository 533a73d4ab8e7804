#include "matmul.h"

#include <math.h>

#include "vectors.h"

#define ROWS_AT_ONCE 12 /* of many rows: 24 sums, the weights and one row fill the 32 registers */
/* From this many rows on, the next panel's weights would leave the cache before they are used. */
#define MAX_PREFETCH_ROWS 128
#define FEW_ROWS_AT_ONCE 4 /* of few rows */
#define OUTPUTS_AT_ONCE 4  /* of few rows */

/* Write a vector of products p to y, as the epilogue says. */
JE_INLINE void apply(float* y, __m512 p, __mmask16 mask, je_epilogue epilogue) {
  if (epilogue == JE_ADD) p = _mm512_add_ps(p, _mm512_maskz_loadu_ps(mask, y));
  if (epilogue == JE_GATE) p = _mm512_mul_ps(je_silu(p), _mm512_maskz_loadu_ps(mask, y));
  _mm512_mask_storeu_ps(y, mask, p);
}

/* Return the number of bytes of 4-bit weights of one output. */
static size_t bytes_per_output(je_part part) {
  return (size_t)(part.matrix->inputs + JE_BLOCK - 1) / JE_BLOCK * (JE_BLOCK / 2);
}

static const uint8_t* first_weights(je_part part) {
  return part.matrix->quantized + part.first * bytes_per_output(part);
}

/* Return how many outputs ahead weights are prefetched, if one output has `bytes` of weights: a multiple of
 * OUTPUTS_AT_ONCE. */
JE_INLINE size_t outputs_ahead(size_t bytes) {
  return (JE_PREFETCH_BYTES / (OUTPUTS_AT_ONCE * bytes) + 1) * OUTPUTS_AT_ONCE;
}

/* Compute four outputs for `count` rows, starting at `row`: 4-bit weights times 8-bit inputs, one block at a time.
 * quantized, scales: the weights and scales of the first output; those of the other outputs follow.
 * end: the end of this part's weights. next: the start of the next part's weights, which are prefetched after it. */
JE_INLINE void dot(float* y, const uint8_t* quantized, const float* scales, const je_rows* rows, int row,
                   const uint8_t* end, const uint8_t* next, const int count) {
  const __m512i low = _mm512_set1_epi8(15);
  const size_t blocks = (size_t)rows->blocks, first = row * blocks;
  const size_t bytes = blocks * (JE_BLOCK / 2), distance = outputs_ahead(bytes) * bytes;
  const int8_t* x = rows->quantized + first * JE_BLOCK;
  __m512 sums[FEW_ROWS_AT_ONCE][OUTPUTS_AT_ONCE];
  float block_scales[FEW_ROWS_AT_ONCE][OUTPUTS_AT_ONCE][16];
#pragma GCC unroll 4
  for (int i = 0; i < count; i++)
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS_AT_ONCE; o++) sums[i][o] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; b++, quantized += JE_BLOCK / 2, x += JE_BLOCK) {
    if (b % 16 == 0) {
      const __mmask16 mask = je_lane_mask((int)(blocks - b));
      for (int o = 0; o < OUTPUTS_AT_ONCE; o++)
        _mm_prefetch((const char*)(scales + (outputs_ahead(bytes) + o) * blocks + b), _MM_HINT_T1);
#pragma GCC unroll 4
      for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTPUTS_AT_ONCE; o++) {
          const size_t at = first + i * blocks + b;
          const __m512 scale = _mm512_maskz_loadu_ps(mask, scales + o * blocks + b);
          const __m512 row_scale = _mm512_maskz_loadu_ps(mask, rows->scales + at);
          const __m512i zero = _mm512_maskz_loadu_epi32(mask, rows->zeros + at);
          const __m512 block_scale = _mm512_mul_ps(scale, row_scale);
          _mm512_storeu_ps(block_scales[i][o], block_scale);
          sums[i][o] = _mm512_fmadd_ps(block_scale, _mm512_cvtepi32_ps(zero), sums[i][o]);
        }
    }
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS_AT_ONCE; o++) {
      const uint8_t* at = quantized + o * bytes;
      const __m512i packed = _mm512_loadu_si512(at);
      const uint8_t* prefetched = at + distance < end ? at + distance : next + (at + distance - end);
      _mm_prefetch((const char*)prefetched, _MM_HINT_T1);
      const __m512i even = _mm512_and_si512(packed, low);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
#pragma GCC unroll 4
      for (int i = 0; i < count; i++) {
        const int8_t* part = x + i * blocks * JE_BLOCK;
        __m512i sum = _mm512_setzero_si512();
        je_dot(&sum, even, _mm512_loadu_si512(part));
        je_dot(&sum, odd, _mm512_loadu_si512(part + 64));
        const __m512 scale = _mm512_set1_ps(block_scales[i][o][b % 16]);
        sums[i][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[i][o]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < count; i++) _mm_storeu_ps(y + (row + i) * JE_TILE, je_horizontal_sums(sums[i]));
}

static void matmul_few_rows(je_part part, je_part next, const je_rows* rows, float* y, size_t stride,
                            je_epilogue epilogue) {
  const size_t blocks = (size_t)rows->blocks, bytes = bytes_per_output(part);
  const uint8_t *start = first_weights(part), *end = start + part.outputs * bytes;
  const uint8_t* after = next.outputs ? first_weights(next) : start; /* in the cache already */
  for (int tile = 0; tile < part.outputs; tile += JE_TILE) {
    const int width = part.outputs - tile < JE_TILE ? part.outputs - tile : JE_TILE;
    float tile_outputs[JE_FEW_ROWS * JE_TILE];
    for (int o = 0; o < width; o += OUTPUTS_AT_ONCE) {
      const uint8_t* quantized = start + (tile + o) * bytes;
      const float* scales = part.matrix->scales + (size_t)(part.first + tile + o) * blocks;
      int row = 0;
      for (; row + 4 <= rows->count; row += 4) dot(tile_outputs + o, quantized, scales, rows, row, end, after, 4);
      for (; row + 2 <= rows->count; row += 2) dot(tile_outputs + o, quantized, scales, rows, row, end, after, 2);
      if (row < rows->count) dot(tile_outputs + o, quantized, scales, rows, row, end, after, 1);
    }
    for (int row = 0; row < rows->count; row++)
      for (int o = 0; o < width; o += 16)
        apply(y + row * stride + tile + o, _mm512_loadu_ps(tile_outputs + row * JE_TILE + o), je_lane_mask(width - o),
              epilogue);
  }
}

void je_prefetch(je_part part, const je_rows* rows) {
  const size_t bytes = bytes_per_output(part);
  const uint8_t *start = first_weights(part), *end = start + part.outputs * bytes;
  if (rows->count <= JE_FEW_ROWS)
    for (const uint8_t* at = start; at < start + outputs_ahead(bytes) * bytes && at < end; at += 64)
      _mm_prefetch((const char*)at, _MM_HINT_T1);
}

/* Unpack the weights of 16 outputs to one byte each. They fill one half of a panel (inputs / 4, 2, 16, 4); their scales
 * fill one half of (blocks, 2, 16). If there are fewer than 16 outputs, the first output takes the places of the
 * others, with scales of zero. prefetched: where to prefetch as many bytes of weights meanwhile. */
static void unpack(uint8_t* half, float* half_scales, const je_matrix* matrix, int blocks, int first, int outputs,
                   const uint8_t* prefetched) {
  const __m512i low = _mm512_set1_epi8(15);
  const float* scales[16];
  const uint8_t* quantized[16];
  for (int o = 0; o < 16; o++) {
    const size_t output = (size_t)(first + (o < outputs ? o : 0));
    scales[o] = matrix->scales + output * blocks;
    quantized[o] = matrix->quantized + output * blocks * (JE_BLOCK / 2);
  }
  for (int b = 0; b < blocks; b++, half += JE_TILE * JE_BLOCK, half_scales += JE_TILE) {
    __m512i packed[16];
    for (int o = 0; o < 16; o++, prefetched += JE_BLOCK / 2) _mm_prefetch((const char*)prefetched, _MM_HINT_T1);
#pragma GCC unroll 16
    for (int o = 0; o < 16; o++) {
      packed[o] = _mm512_loadu_si512(quantized[o] + b * (JE_BLOCK / 2));
      half_scales[o] = o < outputs ? scales[o][b] : 0;
    }
    je_transpose(packed);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      _mm512_store_si512(half + i * 128, _mm512_and_si512(packed[i], low));
      _mm512_store_si512(half + (16 + i) * 128, _mm512_and_si512(_mm512_srli_epi16(packed[i], 4), low));
    }
  }
}

/* Multiply `count` rows, starting at `row`, with a panel, one block at a time. The pragmas unroll the loops over rows;
 * without them the compiler keeps the sums in memory. */
JE_INLINE void multiply_panel(const uint8_t* panel, const float* scales, const je_rows* rows, int row, float* y,
                              size_t stride, int outputs, je_epilogue epilogue, const int count) {
  const size_t blocks = (size_t)rows->blocks, inputs = blocks * JE_BLOCK;
  const int8_t* x = rows->quantized + row * inputs;
  __m512 sums[ROWS_AT_ONCE][2];
  for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; b++, scales += JE_TILE) {
    const size_t first = b * rows->count + row;
    __m512i left[ROWS_AT_ONCE], right[ROWS_AT_ONCE];
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) left[i] = right[i] = _mm512_set1_epi32(rows->zeros[first + i]);
#pragma GCC unroll 4
    for (size_t k = b * JE_BLOCK; k < (b + 1) * JE_BLOCK; k += 4) {
      const __m512i left_weights = _mm512_load_si512(panel + k * JE_TILE);
      const __m512i right_weights = _mm512_load_si512(panel + k * JE_TILE + 64);
#pragma GCC unroll 12
      for (int i = 0; i < count; i++) {
        const __m512i four = _mm512_set1_epi32(*(const int32_t*)(x + i * inputs + k));
        je_dot(&left[i], left_weights, four);
        je_dot(&right[i], right_weights, four);
      }
    }
    const __m512 left_scales = _mm512_load_ps(scales), right_scales = _mm512_load_ps(scales + 16);
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) {
      const __m512 scale = _mm512_set1_ps(rows->scales[first + i]);
      const __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(left[i]), scale);
      const __m512 c = _mm512_mul_ps(_mm512_cvtepi32_ps(right[i]), scale);
      sums[i][0] = _mm512_fmadd_ps(a, left_scales, sums[i][0]);
      sums[i][1] = _mm512_fmadd_ps(c, right_scales, sums[i][1]);
    }
  }
  for (int i = 0; i < count; i++)
    for (int half = 0; half < 2; half++)
      apply(y + (row + i) * stride + 16 * half, sums[i][half], je_lane_mask(outputs - 16 * half), epilogue);
}

static void matmul_many_rows(je_part part, je_part next, const je_rows* rows, float* y, size_t stride,
                             je_epilogue epilogue, uint8_t* panel) {
  const size_t bytes = bytes_per_output(part);
  const int prefetches_next = next.outputs && rows->count < MAX_PREFETCH_ROWS;
  float* scales = (float*)(panel + rows->blocks * JE_BLOCK * JE_TILE);
  for (int half = 0; 16 * half < part.outputs;
       half++) { /* a second half without outputs is computed from stale weights, but not written */
    const uint8_t* prefetched = first_weights(half && prefetches_next ? next : part);
    if (!half && part.outputs > 16) prefetched += 16 * bytes;
    unpack(panel + 64 * half, scales + 16 * half, part.matrix, rows->blocks, part.first + 16 * half,
           part.outputs - 16 * half, prefetched);
  }
  int row = 0, remaining;
  for (; (remaining = rows->count - row) >= 24 || remaining == 12;
       row += 12) /* 13 rows would leave one row to a pass of its own */
    multiply_panel(panel, scales, rows, row, y, stride, part.outputs, epilogue, 12);
  for (; row + 8 <= rows->count; row += 8)
    multiply_panel(panel, scales, rows, row, y, stride, part.outputs, epilogue, 8);
  for (; row + 4 <= rows->count; row += 4)
    multiply_panel(panel, scales, rows, row, y, stride, part.outputs, epilogue, 4);
  for (; row < rows->count; row++) multiply_panel(panel, scales, rows, row, y, stride, part.outputs, epilogue, 1);
}

void je_matmul(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue,
               uint8_t* panel) {
  if (rows->count <= JE_FEW_ROWS)
    matmul_few_rows(part, next, rows, y, stride, epilogue);
  else
    matmul_many_rows(part, next, rows, y, stride, epilogue, panel);
}

size_t je_panel_bytes(int inputs) {
  return (size_t)(inputs + JE_BLOCK - 1) / JE_BLOCK * JE_TILE * (JE_BLOCK + sizeof(float));
}
