#include "rows.h"

#include <math.h>
#include <string.h>

#include "vectors.h"

/* 128 numbers as levels of 1 / inverse, the even ones first; what is behind the inputs is zeros. */
static void round_block(int8_t* levels, const float* x, int inputs, float inverse) {
  int8_t inOrder[JE_BLOCK];
  const __m512 by = _mm512_set1_ps(inverse);
  for (int i = 0; i < JE_BLOCK; i += 16) {
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(je_first(inputs - i), x + i), by);
    _mm_storeu_si128((__m128i*)(inOrder + i), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
  }
  for (int i = 0; i < 2; i++) {
    const __m512i pairs = _mm512_loadu_si512(inOrder + 64 * i);
    _mm256_storeu_si256((__m256i*)(levels + 32 * i), _mm512_cvtepi16_epi8(pairs));
    _mm256_storeu_si256((__m256i*)(levels + 64 + 32 * i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(pairs, 8)));
  }
}

static float largest(const float* x, int count) {
  __m512 most = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16)
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(je_first(count - i), x + i)));
  return fmaxf(_mm512_reduce_max_ps(most), 1e-12f);
}

static int sum_of_levels(const int8_t* levels) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  je_dot(&sum, ones, _mm512_loadu_si512(levels));
  je_dot(&sum, ones, _mm512_loadu_si512(levels + 64));
  return _mm512_reduce_add_epi32(sum);
}

void je_round_row(const je_rows* rows, int row, const float* x, int inputs) {
  const size_t blocks = (size_t)rows->blocks, first = row * blocks;
  const int few = rows->count <= JE_FEW;
  for (int b = 0; b < rows->blocks; b++) {
    const int at = b * JE_BLOCK, left = inputs - at < JE_BLOCK ? inputs - at : JE_BLOCK;
    int8_t* levels = rows->levels + (first + b) * JE_BLOCK;
    const float peak = largest(x + at, left);
    round_block(levels, x + at, left, 127 / peak);
    const size_t place = few ? first + b : (size_t)b * rows->count + row;
    rows->scales[place] = peak / 127;
    rows->zeros[place] = -8 * sum_of_levels(levels);
  }
}

void je_norm(float* y, const float* x, const float* weight, int width, float epsilon) {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < width; i += 16) {
    const __m512 part = _mm512_maskz_loadu_ps(je_first(width - i), x + i);
    sum = _mm512_fmadd_ps(part, part, sum);
  }
  const __m512 by = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(sum) / (float)width + epsilon));
  for (int i = 0; i < width; i += 16) {
    const __mmask16 mask = je_first(width - i);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), by);
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}
