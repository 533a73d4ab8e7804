#include "head.h"

#include <math.h>
#include <stdlib.h>

#include "pool.h"
#include "vectors.h"

#define BLOCK 32          /* inputs that share a scale; a vector of bytes holds two blocks */
#define BLOCKS_AT_ONCE 16 /* their scales fill a vector */
#define OUTPUTS_AT_ONCE 4 /* they share the loads of the inputs */
#define OUTPUTS_PER_PART 64

/* The inputs, quantized to 8 bits per block, as the weights are. zeros: -128 times the sum of a block's quantized
 * values: the weights are unsigned, and 128 stands for zero. */
typedef struct {
  int count, blocks;
  int8_t* quantized; /* (rows, blocks, 32) */
  float* scales;     /* (rows, blocks) */
  float* zeros;      /* (rows, blocks) */
} quantized_rows;

/* One matrix product of je_head_run. */
typedef struct {
  const je_byte_matrix* matrix;
  const quantized_rows* rows;
  float* y; /* (rows, outputs) */
  int gelu;
} head_run;

static void quantize_row(const quantized_rows* rows, int row, const float* x) {
  for (int b = 0; b < rows->blocks; b++, x += BLOCK) {
    const size_t at = (size_t)row * rows->blocks + b;
    const __m512 left = _mm512_loadu_ps(x), right = _mm512_loadu_ps(x + 16);
    const __m512 magnitudes = _mm512_max_ps(_mm512_abs_ps(left), _mm512_abs_ps(right));
    const float peak = fmaxf(_mm512_reduce_max_ps(magnitudes), 1e-12f);
    const __m512 factor = _mm512_set1_ps(127 / peak);
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(left, factor));
    const __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(right, factor));
    int8_t* quantized = rows->quantized + at * BLOCK;
    _mm_storeu_si128((__m128i*)quantized, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128((__m128i*)(quantized + 16), _mm512_cvtsepi32_epi8(c));
    rows->scales[at] = peak / 127;
    rows->zeros[at] = -128.0f * (float)_mm512_reduce_add_epi32(_mm512_add_epi32(a, c));
  }
}

/* Compute four outputs for `count` rows, starting at `row`. end: the end of this part's weights. next: the start of the
 * next part's weights, which are prefetched after it. */
JE_INLINE void dot(float* y, size_t stride, const je_byte_matrix* matrix, int output, const quantized_rows* rows,
                   int row, const uint8_t* end, const uint8_t* next, const int count) {
  const size_t blocks = (size_t)rows->blocks, bytes = blocks * BLOCK, first = row * blocks;
  const uint8_t* quantized = matrix->quantized + output * bytes;
  const float* scales = matrix->scales + output * blocks;
  const size_t outputs_ahead = (JE_PREFETCH_BYTES / (OUTPUTS_AT_ONCE * bytes) + 1) * OUTPUTS_AT_ONCE,
               distance = outputs_ahead * bytes;
  const __m512i pair = _mm512_inserti32x8(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
  __m512 sums[4][OUTPUTS_AT_ONCE];
  float block_scales[4][OUTPUTS_AT_ONCE][BLOCKS_AT_ONCE];
#pragma GCC unroll 4
  for (int i = 0; i < count; i++)
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS_AT_ONCE; o++) sums[i][o] = _mm512_setzero_ps();
  for (size_t start = 0; start < blocks; start += BLOCKS_AT_ONCE) {
    const size_t stop = start + BLOCKS_AT_ONCE < blocks ? start + BLOCKS_AT_ONCE : blocks;
    const __mmask16 mask = je_lane_mask((int)(stop - start));
    for (int o = 0; o < OUTPUTS_AT_ONCE; o++)
      _mm_prefetch((const char*)(scales + (outputs_ahead + o) * blocks + start), _MM_HINT_T1);
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
      for (int o = 0; o < OUTPUTS_AT_ONCE; o++) {
        const size_t at = first + i * blocks + start;
        const __m512 scale = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scales + o * blocks + start),
                                           _mm512_maskz_loadu_ps(mask, rows->scales + at));
        _mm512_storeu_ps(block_scales[i][o], scale);
        sums[i][o] = _mm512_fmadd_ps(scale, _mm512_maskz_loadu_ps(mask, rows->zeros + at), sums[i][o]);
      }
    for (size_t b = start; b < stop; b += 2) {
      const __m512i block_index = _mm512_add_epi32(_mm512_set1_epi32((int)(b - start)), pair);
#pragma GCC unroll 4
      for (int o = 0; o < OUTPUTS_AT_ONCE; o++) {
        const uint8_t* at = quantized + o * bytes + b * BLOCK;
        const uint8_t* prefetched = at + distance < end ? at + distance : next + (at + distance - end);
        const __m512i weights = _mm512_loadu_si512(at);
        _mm_prefetch((const char*)prefetched, _MM_HINT_T1);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
          __m512i sum = _mm512_setzero_si512();
          je_dot(&sum, weights, _mm512_loadu_si512(rows->quantized + (first + i * blocks + b) * BLOCK));
          const __m512 scale = _mm512_permutexvar_ps(block_index, _mm512_loadu_ps(block_scales[i][o]));
          sums[i][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[i][o]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < count; i++) {
    __m128 result = je_horizontal_sums(sums[i]);
    if (matrix->bias) result = _mm_add_ps(result, _mm_loadu_ps(matrix->bias + output));
    _mm_storeu_ps(y + (row + i) * stride + output, result);
  }
}

/* Exact GELU, in place. */
static void gelu(float* y, int count) {
  for (int i = 0; i < count; i++) y[i] *= 0.5f * (1 + erff(y[i] * 0.70710678f));
}

static void matmul_task(void* context, je_piece piece) {
  const head_run* run = context;
  const je_byte_matrix* matrix = run->matrix;
  const quantized_rows* rows = run->rows;
  const size_t bytes = (size_t)matrix->inputs, stride = (size_t)matrix->outputs;
  const int first = piece.number * OUTPUTS_PER_PART, remaining = matrix->outputs - first,
            count = remaining < OUTPUTS_PER_PART ? remaining : OUTPUTS_PER_PART;
  const uint8_t* end = matrix->quantized + (first + count) * bytes;
  const uint8_t* after = matrix->quantized + (piece.next < 0 ? first : piece.next * OUTPUTS_PER_PART) * bytes;
  for (int output = first; output < first + count; output += OUTPUTS_AT_ONCE) {
    int row = 0;
    for (; row + 4 <= rows->count; row += 4) dot(run->y, stride, matrix, output, rows, row, end, after, 4);
    for (; row + 2 <= rows->count; row += 2) dot(run->y, stride, matrix, output, rows, row, end, after, 2);
    if (row < rows->count) dot(run->y, stride, matrix, output, rows, row, end, after, 1);
  }
  for (int row = 0; run->gelu && row < rows->count; row++) gelu(run->y + row * stride + first, count);
}

int je_head_run(je_pool* pool, const je_byte_matrix* matrices, int32_t num_matrices, int32_t rows, const float* hidden,
                float* logits) {
  const size_t count = (size_t)rows;
  size_t widest = 0; /* number of inputs of any matrix */
  for (int i = 0; i < num_matrices; i++)
    widest = (size_t)matrices[i].inputs > widest ? (size_t)matrices[i].inputs : widest;
  const size_t numbers = count * widest, blocks = numbers / BLOCK;
  float* memory = malloc((numbers + 2 * blocks) * sizeof(float) + numbers);
  if (!memory) return -1;
  quantized_rows inputs = {.count = rows, .scales = memory + numbers, .zeros = memory + numbers + blocks};
  inputs.quantized = (int8_t*)(memory + numbers + 2 * blocks);
  for (int i = 0; i < num_matrices; i++) {
    const int last = i + 1 == num_matrices;
    inputs.blocks = matrices[i].inputs / BLOCK;
    for (int row = 0; row < rows; row++)
      quantize_row(&inputs, row, (i ? memory : hidden) + (size_t)row * matrices[i].inputs);
    head_run run = {.matrix = &matrices[i], .rows = &inputs, .y = last ? logits : memory, .gelu = !last};
    je_pool_run(pool, matmul_task, &run, (matrices[i].outputs + OUTPUTS_PER_PART - 1) / OUTPUTS_PER_PART);
  }
  free(memory);
  return 0;
}
