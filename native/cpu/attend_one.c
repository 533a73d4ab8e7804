#include "softmax.h"

#define SLOTS_AT_ONCE 4

/* Return the sum of each of four vectors of int32. */
JE_INLINE __m128i sums_of(const __m512i v[SLOTS_AT_ONCE]) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  const __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  const __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti32x8_epi32(c, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
}

/* Compute the scores of one query with all keys. The query is quantized in place. */
static void score(float* scores, float* query, const int8_t* keys, int length, int width) {
  const __m128 query_scale = _mm_set1_ps(je_quantize_query(query, width));
  __m512i quantized[MAX_HEAD_DIM / 32];
  for (int e = 0; e < width; e += 32) quantized[e / 32] = _mm512_loadu_si512((int16_t*)query + e);
  for (int slot = 0; slot < length; slot += SLOTS_AT_ONCE) {
    __m512i sums[SLOTS_AT_ONCE];
#pragma GCC unroll 4
    for (int i = 0; i < SLOTS_AT_ONCE; i++) {
      const int8_t* key = keys + (size_t)(slot + i < length ? slot + i : length - 1) * width;
      sums[i] = _mm512_setzero_si512();
      for (int e = 0; e < width; e += 32)
        je_dot_pairs(&sums[i], quantized[e / 32], _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)(key + e))));
    }
    _mm_storeu_ps(scores + slot, _mm_mul_ps(_mm_cvtepi32_ps(sums_of(sums)), query_scale));
  }
}

/* Quantize attention weights to 16 bits: for each four slots the four high bytes, then the four low bytes. */
static void quantize_weights(uint32_t (*quantized)[2], const float* weights, int end) {
  const __m512 factor = _mm512_set1_ps(QUANTIZED_MAX);
  for (int slot = 0; slot < end; slot += 16) {
    const __m512i weights16 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights + slot), factor));
    uint32_t high[4], low[4];
    _mm_storeu_si128((__m128i*)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32(weights16, 8)));
    _mm_storeu_si128((__m128i*)low, _mm512_cvtepi32_epi8(weights16));
    for (int i = 0; i < 4; i++) {
      quantized[slot / 4 + i][0] = high[i];
      quantized[slot / 4 + i][1] = low[i];
    }
  }
}

/* Compute up to 64 channels of the weighted sum of values: in integers first, then times the values' scales. */
JE_INLINE void weigh_values(float* y, const uint32_t (*quantized)[2], const int8_t* values, const float* scales,
                            float inverse, int length, int width, int channels) {
  const __mmask64 mask = channels < 64 ? (1ull << channels) - 1 : ~0ull;
  __m512i high[4], low[4];
  for (int i = 0; i < 4; i++) high[i] = low[i] = _mm512_setzero_si512();
  for (int slot = 0; slot < length; slot += SLOTS_AT_ONCE) {
    __m512i v[SLOTS_AT_ONCE], four[4];
#pragma GCC unroll 4
    for (int i = 0; i < SLOTS_AT_ONCE; i++) {
      const int at = slot + i < length ? slot + i : length - 1;
      v[i] = _mm512_maskz_loadu_epi8(mask, values + (size_t)at * width);
    }
    const __m512i a = _mm512_unpacklo_epi8(v[0], v[1]), b = _mm512_unpacklo_epi8(v[2], v[3]);
    const __m512i c = _mm512_unpackhi_epi8(v[0], v[1]), d = _mm512_unpackhi_epi8(v[2], v[3]);
    four[0] = _mm512_unpacklo_epi16(a, b);
    four[1] = _mm512_unpackhi_epi16(a, b);
    four[2] = _mm512_unpacklo_epi16(c, d);
    four[3] = _mm512_unpackhi_epi16(c, d);
    const __m512i high_bytes = _mm512_set1_epi32((int)quantized[slot / 4][0]);
    const __m512i low_bytes = _mm512_set1_epi32((int)quantized[slot / 4][1]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      je_dot(&high[i], high_bytes, four[i]);
      je_dot(&low[i], low_bytes, four[i]);
    }
  }
  /* 128-bit lane l of sum i holds channels 16 l + 4 i ... 16 l + 4 i + 3 */
  for (int i = 0; i < 4; i++) {
    float sums[16];
    const __m512 sum =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[i]), _mm512_set1_ps(256), /* in float32: int32 would overflow */
                        _mm512_cvtepi32_ps(low[i]));
    _mm512_storeu_ps(sums, _mm512_mul_ps(sum, _mm512_set1_ps(inverse / QUANTIZED_MAX)));
    for (int lane = 0; lane < channels / 16; lane++)
      for (int e = 16 * lane + 4 * i, j = 0; j < 4; j++) y[e + j] = sums[4 * lane + j] * scales[e + j];
  }
}

void je_attend_one(float* y, float* query, const int8_t* keys, const int8_t* values, const float* value_scales,
                   float* scores, int length, int width) {
  const int end = (int)je_padded((size_t)length);
  uint32_t (*quantized)[2] = (uint32_t (*)[2])(scores + end);
  score(scores, query, keys, length, width);
  const float inverse = je_softmax(scores, length, end);
  quantize_weights(quantized, scores, end);
  for (int e = 0; e < width; e += 64)
    weigh_values(y + e, (const uint32_t (*)[2])quantized, values + e, value_scales + e, inverse, length, width,
                 width - e < 64 ? width - e : 64);
}
