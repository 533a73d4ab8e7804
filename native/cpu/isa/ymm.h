/* 256-bit vectors in pairs: AVX2, and AVX-VNNI if JE_DPBUSD and JE_DPWSSD name its instructions. */
#include <immintrin.h>

#define JE_HALVES 1       /* 16 outputs each, computed together */
#define JE_ROWS_AT_ONCE 4 /* 8 sums, the weights and a row's inputs fill the 16 registers */

typedef struct {
  __m256 low, high;
} je_floats;
typedef struct {
  __m256i low, high;
} je_ints, je_words, je_quads, je_partial;

#define JE_BOTH(type, x) ((type){(x), (x)})
#define JE_EACH(type, call) ((type){call(low), call(high)})

JE_INLINE je_floats f_load(const float* at) { return (je_floats){_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
JE_INLINE void f_store(float* at, je_floats x) {
  _mm256_storeu_ps(at, x.low);
  _mm256_storeu_ps(at + 8, x.high);
}
JE_INLINE je_floats f_all(float x) { return JE_BOTH(je_floats, _mm256_set1_ps(x)); }
#define JE_FLOATS_2(name, intrinsic)                                                      \
  JE_INLINE je_floats name(je_floats a, je_floats b) {                                    \
    return (je_floats){intrinsic(a.low, b.low), intrinsic(a.high, b.high)};               \
  }
JE_FLOATS_2(f_add, _mm256_add_ps)
JE_FLOATS_2(f_sub, _mm256_sub_ps)
JE_FLOATS_2(f_mul, _mm256_mul_ps)
JE_FLOATS_2(f_div, _mm256_div_ps)
JE_FLOATS_2(f_max, _mm256_max_ps)
JE_FLOATS_2(f_min, _mm256_min_ps)
JE_INLINE je_floats f_fma(je_floats a, je_floats b, je_floats c) {
  return (je_floats){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
JE_INLINE je_floats f_fnma(je_floats a, je_floats b, je_floats c) {
  return (je_floats){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
JE_INLINE je_floats f_abs(je_floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return (je_floats){_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
JE_INLINE je_floats f_of(je_ints x) { return (je_floats){_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
JE_INLINE __m256 je_power(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
JE_INLINE je_floats f_power_of_2(je_ints n) { return (je_floats){je_power(n.low), je_power(n.high)}; }
JE_INLINE void f_to_8(float eight[8], je_floats x, int takes_max) {
  _mm256_storeu_ps(eight, takes_max ? _mm256_max_ps(x.low, x.high) : _mm256_add_ps(x.low, x.high));
}

JE_INLINE je_ints i_all(int32_t x) { return JE_BOTH(je_ints, _mm256_set1_epi32(x)); }
JE_INLINE je_ints i_rounded(je_floats x) { return (je_ints){_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
JE_INLINE je_ints i_add(je_ints a, je_ints b) {
  return (je_ints){_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
JE_INLINE int32_t i_sum(je_ints x) {
  const __m256i eight = _mm256_add_epi32(x.low, x.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
/* Return the sums of four vectors, in each part of four numbers. */
JE_INLINE __m256i je_sums_of_4(const je_ints* x) {
  __m256i y[4];
  for (int i = 0; i < 4; i++) y[i] = _mm256_add_epi32(x[i].low, x[i].high);
  const __m256i a = _mm256_hadd_epi32(y[0], y[1]), b = _mm256_hadd_epi32(y[2], y[3]);
  return _mm256_hadd_epi32(a, b);
}
/* Return the sum of each of eight vectors. */
JE_INLINE __m256i je_sums_of_8(const je_ints* x) {
  const __m256i a = je_sums_of_4(x), b = je_sums_of_4(x + 4);
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}
/* Return the sum of each of 16 vectors. */
JE_INLINE je_ints i_sums(const je_ints x[16]) { return (je_ints){je_sums_of_8(x), je_sums_of_8(x + 8)}; }
/* Return the 16 numbers, which fit 16 bits, in order. */
JE_INLINE __m256i je_narrowed(je_ints x) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
}
JE_INLINE void i_store_words(int16_t* at, je_ints x) { _mm256_storeu_si256((__m256i*)at, je_narrowed(x)); }
JE_INLINE void i_store_bytes(int8_t* at, je_ints x) {
  const __m256i words = je_narrowed(x);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i*)at, bytes);
}

JE_INLINE je_words w_load(const int16_t* at) {
  return (je_words){_mm256_loadu_si256((const __m256i*)at), _mm256_loadu_si256((const __m256i*)(at + 16))};
}
JE_INLINE void w_store(int16_t* at, je_words x) {
  _mm256_storeu_si256((__m256i*)at, x.low);
  _mm256_storeu_si256((__m256i*)(at + 16), x.high);
}
JE_INLINE je_words w_pair(const int16_t* at) { return JE_BOTH(je_words, _mm256_set1_epi32(*(const int32_t*)at)); }
JE_INLINE je_words w_widened(const int8_t* at) {
  return (je_words){_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)at)),
                    _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(at + 16)))};
}
JE_INLINE je_words je_zipped(const int8_t* a, const int8_t* b) {
  const __m128i x = _mm_loadu_si128((const __m128i*)a), y = _mm_loadu_si128((const __m128i*)b);
  return (je_words){_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y)), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(x, y))};
}
JE_INLINE void w_zip(je_words zipped[2], const int8_t* a, const int8_t* b) {
  zipped[0] = je_zipped(a, b);
  zipped[1] = je_zipped(a + 16, b + 16);
}

JE_INLINE je_quads q_load(const uint8_t* at) {
  return (je_quads){_mm256_loadu_si256((const __m256i*)at), _mm256_loadu_si256((const __m256i*)(at + 32))};
}
JE_INLINE je_quads q_low(je_quads x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return (je_quads){_mm256_and_si256(x.low, mask), _mm256_and_si256(x.high, mask)};
}
JE_INLINE je_quads q_high(je_quads x) {
  return q_low((je_quads){_mm256_srli_epi16(x.low, 4), _mm256_srli_epi16(x.high, 4)});
}
JE_INLINE je_quads q_four(const int8_t* at) { return JE_BOTH(je_quads, _mm256_set1_epi32(*(const int32_t*)at)); }

#ifdef JE_DPBUSD
JE_INLINE void w_dot(je_ints* sums, je_words a, je_words b) {
  __asm__(JE_DPWSSD " %2, %1, %0" : "+x"(sums->low) : "x"(a.low), "x"(b.low));
  __asm__(JE_DPWSSD " %2, %1, %0" : "+x"(sums->high) : "x"(a.high), "x"(b.high));
}
JE_INLINE void q_dot(je_ints* sums, je_quads weights, je_quads x) {
  __asm__(JE_DPBUSD " %2, %1, %0" : "+x"(sums->low) : "x"(weights.low), "x"(x.low));
  __asm__(JE_DPBUSD " %2, %1, %0" : "+x"(sums->high) : "x"(weights.high), "x"(x.high));
}
JE_INLINE void q_dot_nibbles(je_partial* sums, je_quads weights, je_quads x) { q_dot(sums, weights, x); }
JE_INLINE je_partial p_begin(je_ints sums) { return sums; }
JE_INLINE je_ints p_end(je_ints sums, je_partial partial) {
  (void)sums;
  return partial;
}
#else
JE_INLINE void w_dot(je_ints* sums, je_words a, je_words b) {
  sums->low = _mm256_add_epi32(sums->low, _mm256_madd_epi16(a.low, b.low));
  sums->high = _mm256_add_epi32(sums->high, _mm256_madd_epi16(a.high, b.high));
}
/* Two products of an unsigned and a signed byte, which vpmaddubsw adds, may not fit 16 bits. So the weights become signed
 * (less 128), their magnitudes, at most 128, are the unsigned factors, and x takes their signs: x is never -128, which has
 * no negative. */
JE_INLINE __m256i je_dot_bytes(__m256i sums, __m256i weights, __m256i x) {
  const __m256i moved = _mm256_xor_si256(weights, _mm256_set1_epi8(-128)), ones = _mm256_set1_epi16(1);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(moved), _mm256_sign_epi8(x, moved));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
}
JE_INLINE void q_dot(je_ints* sums, je_quads weights, je_quads x) {
  sums->low = je_dot_bytes(sums->low, weights.low, x.low);
  sums->high = je_dot_bytes(sums->high, weights.high, x.high);
}
#define JE_BYTES_ARE_CENTERED /* q_dot multiplies x by weights - 128 */
/* Eight sums of two products of a nibble and a byte, at most 15 * 127, fit 16 bits. */
JE_INLINE void q_dot_nibbles(je_partial* sums, je_quads weights, je_quads x) {
  sums->low = _mm256_add_epi16(sums->low, _mm256_maddubs_epi16(weights.low, x.low));
  sums->high = _mm256_add_epi16(sums->high, _mm256_maddubs_epi16(weights.high, x.high));
}
JE_INLINE je_partial p_begin(je_ints sums) {
  (void)sums;
  return JE_BOTH(je_partial, _mm256_setzero_si256());
}
JE_INLINE je_ints p_end(je_ints sums, je_partial partial) {
  const __m256i ones = _mm256_set1_epi16(1);
  return (je_ints){_mm256_add_epi32(sums.low, _mm256_madd_epi16(partial.low, ones)),
                   _mm256_add_epi32(sums.high, _mm256_madd_epi16(partial.high, ones))};
}
#endif
