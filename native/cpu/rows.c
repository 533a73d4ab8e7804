#include "rows.h"

#include <math.h>
#include <string.h>

#include "vectors.h"

/* Quantize a block of 128 numbers with the scale 1 / inverse, the even inputs first. Numbers after `inputs` become
 * zeros. */
static void quantize_block(int8_t* quantized, const float* x, int inputs, float inverse) {
  int8_t in_order[JE_BLOCK];
  const __m512 factor = _mm512_set1_ps(inverse);
  for (int i = 0; i < JE_BLOCK; i += 16) {
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(je_lane_mask(inputs - i), x + i), factor);
    _mm_storeu_si128((__m128i*)(in_order + i), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
  }
  for (int i = 0; i < 2; i++) {
    const __m512i pairs = _mm512_loadu_si512(in_order + 64 * i);
    _mm256_storeu_si256((__m256i*)(quantized + 32 * i), _mm512_cvtepi16_epi8(pairs));
    _mm256_storeu_si256((__m256i*)(quantized + 64 + 32 * i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(pairs, 8)));
  }
}

/* Return the largest magnitude, at least 1e-12. */
static float largest(const float* x, int count) {
  __m512 magnitudes = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16)
    magnitudes = _mm512_max_ps(magnitudes, _mm512_abs_ps(_mm512_maskz_loadu_ps(je_lane_mask(count - i), x + i)));
  return fmaxf(_mm512_reduce_max_ps(magnitudes), 1e-12f);
}

static int sum_quantized(const int8_t* quantized) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  je_dot(&sum, ones, _mm512_loadu_si512(quantized));
  je_dot(&sum, ones, _mm512_loadu_si512(quantized + 64));
  return _mm512_reduce_add_epi32(sum);
}

void je_quantize_row(const je_rows* rows, int row, const float* x, int inputs) {
  const size_t blocks = (size_t)rows->blocks, first = row * blocks;
  const int has_few_rows = rows->count <= JE_FEW_ROWS;
  for (int b = 0; b < rows->blocks; b++) {
    const int at = b * JE_BLOCK, count = inputs - at < JE_BLOCK ? inputs - at : JE_BLOCK;
    int8_t* quantized = rows->quantized + (first + b) * JE_BLOCK;
    const float peak = largest(x + at, count);
    quantize_block(quantized, x + at, count, 127 / peak);
    const size_t place = has_few_rows ? first + b : (size_t)b * rows->count + row;
    rows->scales[place] = peak / 127;
    rows->zeros[place] = -8 * sum_quantized(quantized);
  }
}

void je_norm(float* y, const float* x, const float* weight, int width, float epsilon) {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < width; i += 16) {
    const __m512 x_part = _mm512_maskz_loadu_ps(je_lane_mask(width - i), x + i);
    sum = _mm512_fmadd_ps(x_part, x_part, sum);
  }
  const __m512 factor = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(sum) / (float)width + epsilon));
  for (int i = 0; i < width; i += 16) {
    const __mmask16 mask = je_lane_mask(width - i);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
    _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}
