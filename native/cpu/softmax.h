/* What attention.c and attend_one.c share: softmax, and queries quantized to 16 bits. */
#ifndef JE_SOFTMAX_H
#define JE_SOFTMAX_H

#include <math.h>
#include <stddef.h>

#include "rows.h"
#include "vectors.h"

#define MAX_HEAD_DIM 256    /* largest width of an attention head */
#define QUANTIZED_MAX 32767 /* of queries and attention weights, in 16 bits */

/* Return length rounded up to a multiple of JE_TILE. */
static inline size_t je_padded(size_t length) { return (length + JE_TILE - 1) / JE_TILE * JE_TILE; }

/* Replace scores by exp(score - largest score), and set those from `length` to `end` to zero. end: a multiple of 16.
 * Return 1 / their sum. */
static inline float je_softmax(float* scores, int length, int end) {
  __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (int i = 0; i < length; i += 16) {
    const __mmask16 mask = je_lane_mask(length - i);
    largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(largest, mask, scores + i));
  }
  const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  for (int i = 0; i < end; i += 16) {
    const __mmask16 mask = je_lane_mask(length - i);
    const __m512 score = _mm512_maskz_loadu_ps(mask, scores + i);
    const __m512 weight = _mm512_maskz_mov_ps(mask, je_exp(_mm512_sub_ps(score, peak)));
    sum = _mm512_add_ps(sum, weight);
    _mm512_storeu_ps(scores + i, weight);
  }
  return 1 / _mm512_reduce_add_ps(sum);
}

/* Quantize a query (width) to 16 bits, in place: the result overwrites its first half. Return the scale. */
static inline float je_quantize_query(float* query, int width) {
  __m512 magnitudes = _mm512_set1_ps(1e-30f);
  for (int e = 0; e < width; e += 16) magnitudes = _mm512_max_ps(magnitudes, _mm512_abs_ps(_mm512_loadu_ps(query + e)));
  const float peak = _mm512_reduce_max_ps(magnitudes);
  const __m512 factor = _mm512_set1_ps(QUANTIZED_MAX / peak);
  for (int e = 0; e < width; e += 16) {
    const __m512i quantized = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(query + e), factor));
    _mm256_storeu_si256((__m256i*)((int16_t*)query + e), _mm512_cvtsepi32_epi16(quantized));
  }
  return peak / QUANTIZED_MAX;
}

/* Attention of one query over the 8-bit cache, in integers.
 *
 * y (width): the result. query (width): rotated, and multiplied by the keys' scales and 1 / sqrt(width); it is
 * quantized in place. keys, values (length, width): the cache of one row and head. value_scales (width). scores:
 * scratch of 2 * je_padded(length) floats. */
void je_attend_one(float* y, float* query, const int8_t* keys, const int8_t* values, const float* value_scales,
                   float* scores, int length, int width);

#endif
