/* AVX-512 helpers of the CPU kernels. This header switches on AVX-512 VNNI for the files that include it. */
#ifndef JE_VECTORS_H
#define JE_VECTORS_H

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#include <immintrin.h>
#include <stdint.h>

/* How many bytes ahead weights are prefetched: into the second-level cache, because the first level keeps too few
 * requests outstanding (docs/cpu-kernels.md). */
#define JE_PREFETCH_BYTES 16384
#define JE_INLINE static inline __attribute__((always_inline))

/* Add four products of unsigned bytes u and signed bytes s to each int32 of sums. In assembly, because GCC 12 copies
 * and spills the sums of the intrinsic, which takes twice the time. */
JE_INLINE void je_dot(__m512i* sums, __m512i u, __m512i s) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(u), "v"(s));
}

/* Add two products of signed 16-bit numbers to each int32 of sums. */
JE_INLINE void je_dot_pairs(__m512i* sums, __m512i a, __m512i b) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(*sums) : "v"(a), "v"(b));
}

/* e^x, within 2 units in the last place; 0 below -87, infinity above 88. */
static inline __m512 je_exp(__m512 x) {
  const __m512 count = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 rest = _mm512_fnmadd_ps(count, _mm512_set1_ps(0.693145752f), x);
  rest = _mm512_fnmadd_ps(count, _mm512_set1_ps(1.42860677e-6f), rest);
  __m512 power = _mm512_set1_ps(1.0f / 720);
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f / 120));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f / 24));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f / 6));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.5f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1));
  return _mm512_scalef_ps(power, count);
}

/* x / (1 + e^-x). */
static inline __m512 je_silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1);
  return _mm512_div_ps(x, _mm512_add_ps(one, je_exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/* Return the mask of the first `count` lanes, 0 to 16. */
static inline __mmask16 je_lane_mask(int count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

/* Return the sum of each of four vectors. */
JE_INLINE __m128 je_horizontal_sums(const __m512 v[4]) {
  const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512 c = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  const __m256 d = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
  return _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
}

/* Transpose 16 rows of 16 numbers of 4 bytes, in place. */
JE_INLINE void je_transpose(__m512i v[16]) {
  __m512i a[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 8; i++) {
    v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
  }
}

#endif
