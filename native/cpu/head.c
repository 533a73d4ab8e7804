#include "head.h"

#include <math.h>
#include <stdlib.h>

#include "pool.h"
#include "vectors.h"

#define BLOCK 32   /* inputs that share a scale; a vector of bytes holds two blocks */
#define AT_ONCE 16 /* blocks: their scales fill a vector */
#define OUTPUTS 4  /* at once; they share the loads of the inputs */
#define SHARE 64   /* outputs a part */

/* The inputs, rounded to 8 bits, as the weights are, a block at a time. zeros: -128 times the sum of a
 * block's levels. */
typedef struct {
  int count, blocks;
  int8_t* levels; /* (rows, blocks, 32) */
  float* scales;  /* (rows, blocks) */
  float* zeros;   /* (rows, blocks) */
} rows_of;

typedef struct {
  const je_byte_matrix* matrix;
  const rows_of* rows;
  float* y; /* (rows, outputs) */
  int gelu;
} run_of;

static void round_row(const rows_of* rows, int row, const float* x) {
  for (int b = 0; b < rows->blocks; b++, x += BLOCK) {
    const size_t at = (size_t)row * rows->blocks + b;
    const __m512 left = _mm512_loadu_ps(x), right = _mm512_loadu_ps(x + 16);
    const __m512 most = _mm512_max_ps(_mm512_abs_ps(left), _mm512_abs_ps(right));
    const float peak = fmaxf(_mm512_reduce_max_ps(most), 1e-12f);
    const __m512 by = _mm512_set1_ps(127 / peak);
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(left, by));
    const __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(right, by));
    int8_t* levels = rows->levels + at * BLOCK;
    _mm_storeu_si128((__m128i*)levels, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128((__m128i*)(levels + 16), _mm512_cvtsepi32_epi8(c));
    rows->scales[at] = peak / 127;
    rows->zeros[at] = -128.0f * (float)_mm512_reduce_add_epi32(_mm512_add_epi32(a, c));
  }
}

/* Four outputs of `count` rows from `row` on. end, next: of this part's weights, and where those of the next
 * begin. */
JE_INLINE void dot(float* y, size_t stride, const je_byte_matrix* matrix, int output, const rows_of* rows, int row,
                   const uint8_t* end, const uint8_t* next, const int count) {
  const size_t blocks = (size_t)rows->blocks, bytes = blocks * BLOCK, first = row * blocks;
  const uint8_t* levels = matrix->levels + output * bytes;
  const float* scales = matrix->scales + output * blocks;
  const size_t outputs_ahead = (JE_AHEAD / (OUTPUTS * bytes) + 1) * OUTPUTS, distance = outputs_ahead * bytes;
  const __m512i pair = _mm512_inserti32x8(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
  __m512 sums[4][OUTPUTS];
  float worth[4][OUTPUTS][AT_ONCE];
#pragma GCC unroll 4
  for (int i = 0; i < count; i++)
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS; o++) sums[i][o] = _mm512_setzero_ps();
  for (size_t start = 0; start < blocks; start += AT_ONCE) {
    const size_t stop = start + AT_ONCE < blocks ? start + AT_ONCE : blocks;
    const __mmask16 mask = je_first((int)(stop - start));
    for (int o = 0; o < OUTPUTS; o++)
      _mm_prefetch((const char*)(scales + (outputs_ahead + o) * blocks + start), _MM_HINT_T1);
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
      for (int o = 0; o < OUTPUTS; o++) {
        const size_t at = first + i * blocks + start;
        const __m512 both = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scales + o * blocks + start),
                                          _mm512_maskz_loadu_ps(mask, rows->scales + at));
        _mm512_storeu_ps(worth[i][o], both);
        sums[i][o] = _mm512_fmadd_ps(both, _mm512_maskz_loadu_ps(mask, rows->zeros + at), sums[i][o]);
      }
    for (size_t b = start; b < stop; b += 2) {
      const __m512i of_block = _mm512_add_epi32(_mm512_set1_epi32((int)(b - start)), pair);
#pragma GCC unroll 4
      for (int o = 0; o < OUTPUTS; o++) {
        const uint8_t* at = levels + o * bytes + b * BLOCK;
        const uint8_t* later = at + distance < end ? at + distance : next + (at + distance - end);
        const __m512i weights = _mm512_loadu_si512(at);
        _mm_prefetch((const char*)later, _MM_HINT_T1);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
          __m512i sum = _mm512_setzero_si512();
          je_dot(&sum, weights, _mm512_loadu_si512(rows->levels + (first + i * blocks + b) * BLOCK));
          const __m512 scale = _mm512_permutexvar_ps(of_block, _mm512_loadu_ps(worth[i][o]));
          sums[i][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[i][o]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < count; i++) {
    __m128 found = je_sums_of(sums[i]);
    if (matrix->bias) found = _mm_add_ps(found, _mm_loadu_ps(matrix->bias + output));
    _mm_storeu_ps(y + (row + i) * stride + output, found);
  }
}

static void gelu(float* y, int count) {
  for (int i = 0; i < count; i++) y[i] *= 0.5f * (1 + erff(y[i] * 0.70710678f));
}

static void matmul_task(void* context, je_piece piece) {
  const run_of* run = context;
  const je_byte_matrix* matrix = run->matrix;
  const rows_of* rows = run->rows;
  const size_t bytes = (size_t)matrix->inputs, stride = (size_t)matrix->outputs;
  const int first = piece.number * SHARE, left = matrix->outputs - first, count = left < SHARE ? left : SHARE;
  const uint8_t* end = matrix->levels + (first + count) * bytes;
  const uint8_t* after = matrix->levels + (piece.next < 0 ? first : piece.next * SHARE) * bytes;
  for (int output = first; output < first + count; output += OUTPUTS) {
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
  size_t widest = 0; /* of what goes in */
  for (int i = 0; i < num_matrices; i++)
    widest = (size_t)matrices[i].inputs > widest ? (size_t)matrices[i].inputs : widest;
  const size_t numbers = count * widest, blocks = numbers / BLOCK;
  float* memory = malloc((numbers + 2 * blocks) * sizeof(float) + numbers);
  if (!memory) return -1;
  rows_of rounded = {.count = rows, .scales = memory + numbers, .zeros = memory + numbers + blocks};
  rounded.levels = (int8_t*)(memory + numbers + 2 * blocks);
  for (int i = 0; i < num_matrices; i++) {
    const int last = i + 1 == num_matrices;
    rounded.blocks = matrices[i].inputs / BLOCK;
    for (int row = 0; row < rows; row++)
      round_row(&rounded, row, (i ? memory : hidden) + (size_t)row * matrices[i].inputs);
    run_of run = {.matrix = &matrices[i], .rows = &rounded, .y = last ? logits : memory, .gelu = !last};
    je_pool_run(pool, matmul_task, &run, (matrices[i].outputs + SHARE - 1) / SHARE);
  }
  free(memory);
  return 0;
}
