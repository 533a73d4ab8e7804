/* AVX-512 VNNI: vectors of 16 numbers of 4 bytes. */
#include <immintrin.h>

#define JE_HALVES 2        /* 16 outputs each, computed together */
#define JE_ROWS_AT_ONCE 12 /* 24 sums, the weights and a row's inputs fill the 32 registers */

typedef __m512 je_floats;
typedef __m512i je_ints, je_words, je_quads, je_partial;

JE_INLINE je_floats f_load(const float* at) { return _mm512_loadu_ps(at); }
JE_INLINE void f_store(float* at, je_floats x) { _mm512_storeu_ps(at, x); }
JE_INLINE je_floats f_all(float x) { return _mm512_set1_ps(x); }
JE_INLINE je_floats f_add(je_floats a, je_floats b) { return _mm512_add_ps(a, b); }
JE_INLINE je_floats f_sub(je_floats a, je_floats b) { return _mm512_sub_ps(a, b); }
JE_INLINE je_floats f_mul(je_floats a, je_floats b) { return _mm512_mul_ps(a, b); }
JE_INLINE je_floats f_div(je_floats a, je_floats b) { return _mm512_div_ps(a, b); }
JE_INLINE je_floats f_fma(je_floats a, je_floats b, je_floats c) { return _mm512_fmadd_ps(a, b, c); }
JE_INLINE je_floats f_fnma(je_floats a, je_floats b, je_floats c) { return _mm512_fnmadd_ps(a, b, c); }
JE_INLINE je_floats f_max(je_floats a, je_floats b) { return _mm512_max_ps(a, b); }
JE_INLINE je_floats f_min(je_floats a, je_floats b) { return _mm512_min_ps(a, b); }
JE_INLINE je_floats f_abs(je_floats x) { return _mm512_abs_ps(x); }
JE_INLINE je_floats f_of(je_ints x) { return _mm512_cvtepi32_ps(x); }
JE_INLINE je_floats f_power_of_2(je_ints n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
JE_INLINE void f_to_8(float eight[8], je_floats x, int takes_max) {
  const __m256 low = _mm512_castps512_ps256(x), high = _mm512_extractf32x8_ps(x, 1);
  _mm256_storeu_ps(eight, takes_max ? _mm256_max_ps(low, high) : _mm256_add_ps(low, high));
}

JE_INLINE je_ints i_all(int32_t x) { return _mm512_set1_epi32(x); }
JE_INLINE je_ints i_rounded(je_floats x) { return _mm512_cvtps_epi32(x); }
JE_INLINE je_ints i_add(je_ints a, je_ints b) { return _mm512_add_epi32(a, b); }
JE_INLINE int32_t i_sum(je_ints x) { return _mm512_reduce_add_epi32(x); }
/* Return the sums of four vectors, in each part of four numbers. */
JE_INLINE __m512i je_sums_of_4(const je_ints* x) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
/* Return the sum of each of 16 vectors. */
JE_INLINE je_ints i_sums(const je_ints x[16]) {
  const __m512i a = je_sums_of_4(x), b = je_sums_of_4(x + 4), c = je_sums_of_4(x + 8), d = je_sums_of_4(x + 12);
  const __m512i ab = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
  const __m512i cd = _mm512_add_epi32(_mm512_shuffle_i32x4(c, d, 0x44), _mm512_shuffle_i32x4(c, d, 0xee));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(ab, cd, 0x88), _mm512_shuffle_i32x4(ab, cd, 0xdd));
}
JE_INLINE void i_store_bytes(int8_t* at, je_ints x) { _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8(x)); }
JE_INLINE void i_store_words(int16_t* at, je_ints x) { _mm256_storeu_si256((__m256i*)at, _mm512_cvtepi32_epi16(x)); }

JE_INLINE je_words w_load(const int16_t* at) { return _mm512_loadu_si512(at); }
JE_INLINE void w_store(int16_t* at, je_words x) { _mm512_storeu_si512(at, x); }
JE_INLINE je_words w_pair(const int16_t* at) { return _mm512_set1_epi32(*(const int32_t*)at); }
JE_INLINE je_words w_widened(const int8_t* at) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)at)); }
JE_INLINE void w_zip(je_words zipped[2], const int8_t* a, const int8_t* b) {
  const je_words from = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36,
                                         4, 35, 3, 34, 2, 33, 1, 32, 0);
  const je_words x = w_widened(a), y = w_widened(b);
  zipped[0] = _mm512_permutex2var_epi16(x, from, y);
  zipped[1] = _mm512_permutex2var_epi16(x, _mm512_add_epi16(from, _mm512_set1_epi16(16)), y);
}
/* In assembly, because GCC 12 copies and spills the sums of the intrinsics, which takes twice the time. */
#if defined(__clang__)
#define JE_DOT(intrinsic, instruction, sums, a, b) (*(sums) = intrinsic(*(sums), a, b))
#else
#define JE_DOT(intrinsic, instruction, sums, a, b) \
  __asm__(instruction " %2, %1, %0" : "+v"(*(sums)) : "v"(a), "v"(b))
#endif
JE_INLINE void w_dot(je_ints* sums, je_words a, je_words b) {
  JE_DOT(_mm512_dpwssd_epi32, "vpdpwssd", sums, a, b);
}

JE_INLINE je_quads q_load(const uint8_t* at) { return _mm512_loadu_si512(at); }
JE_INLINE je_quads q_low(je_quads x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
JE_INLINE je_quads q_high(je_quads x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
JE_INLINE je_quads q_four(const int8_t* at) { return _mm512_set1_epi32(*(const int32_t*)at); }
JE_INLINE void q_dot(je_ints* sums, je_quads weights, je_quads x) {
  JE_DOT(_mm512_dpbusd_epi32, "vpdpbusd", sums, weights, x);
}
JE_INLINE void q_dot_nibbles(je_partial* sums, je_quads weights, je_quads x) { q_dot(sums, weights, x); }
JE_INLINE je_partial p_begin(je_ints sums) { return sums; }
JE_INLINE je_ints p_end(je_ints sums, je_partial partial) {
  (void)sums;
  return partial;
}
