/* What attention of one query and of many shares. */
#ifndef JE_SOFTMAX_H
#define JE_SOFTMAX_H

#include <math.h>
#include <stddef.h>

#include "rows.h"
#include "vectors.h"

#define WIDEST 256  /* of a head */
#define LEVEL 32767 /* a query's, and a weight's largest */

/* Slots, a whole number of tiles. */
static inline size_t je_padded(size_t length) { return (length + JE_TILE - 1) / JE_TILE * JE_TILE; }

/* Scores to weights, zeros from `length` to `end`; 1 over their sum. */
static inline float je_softmax(float* scores, int length, int end) {
  __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (int i = 0; i < length; i += 16) {
    const __mmask16 mask = je_first(length - i);
    most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, mask, scores + i));
  }
  const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int i = 0; i < end; i += 16) {
    const __mmask16 mask = je_first(length - i);
    const __m512 score = _mm512_maskz_loadu_ps(mask, scores + i);
    const __m512 weight = _mm512_maskz_mov_ps(mask, je_exp(_mm512_sub_ps(score, peak)));
    sum = _mm512_add_ps(sum, weight);
    _mm512_storeu_ps(scores + i, weight);
  }
  return 1 / _mm512_reduce_add_ps(sum);
}

/* A query to 16 bits, over itself; a level's worth. */
static inline float je_round_query(float* query, int width) {
  __m512 most = _mm512_set1_ps(1e-30f);
  for (int e = 0; e < width; e += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(query + e)));
  const float peak = _mm512_reduce_max_ps(most);
  const __m512 by = _mm512_set1_ps(LEVEL / peak);
  for (int e = 0; e < width; e += 16) {
    const __m512i levels = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(query + e), by));
    _mm256_storeu_si256((__m256i*)((int16_t*)query + e), _mm512_cvtsepi32_epi16(levels));
  }
  return peak / LEVEL;
}

/* One query, in units of its keys' levels and of the softmax, over the cache as it is (length, E), in integers; the
 * query is rounded on the way. y (E). scores: room for the padded length, twice. */
void je_attend_one(float* y, float* query, const int8_t* keys, const int8_t* values, const float* value_scales,
                   float* scores, int length, int width);

#endif
