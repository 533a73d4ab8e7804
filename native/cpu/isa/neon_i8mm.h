/* NEON with int8 matrix products: as with dot product, and what kernels/pairs.h needs. */
#include "neon.h"

#define JE_PAIRS /* two rows of inputs are multiplied at once */

typedef struct {
  int32x4_t at[8]; /* of outputs o and o + 1: row 0 times both, row 1 times both */
} je_pairs;
typedef struct {
  int8x16_t at[8]; /* eight weights of output o, eight of output o + 1 */
} je_eights;

JE_INLINE je_pairs m_begin(je_ints first, je_ints second) {
  je_pairs y;
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
    const int64x2_t a = vreinterpretq_s64_s32(first.at[i]), b = vreinterpretq_s64_s32(second.at[i]);
    y.at[2 * i] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
    y.at[2 * i + 1] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
  }
  return y;
}
JE_INLINE je_ints m_first(je_pairs x) {
  JE_PARTS(je_ints, vreinterpretq_s32_s64(
                        vzip1q_s64(vreinterpretq_s64_s32(x.at[2 * i]), vreinterpretq_s64_s32(x.at[2 * i + 1]))));
}
JE_INLINE je_ints m_second(je_pairs x) {
  JE_PARTS(je_ints, vreinterpretq_s32_s64(
                        vzip2q_s64(vreinterpretq_s64_s32(x.at[2 * i]), vreinterpretq_s64_s32(x.at[2 * i + 1]))));
}

/* Zip the quads of inputs 0 ... 3 with those of inputs 4 ... 7. */
JE_INLINE je_eights m_zipped(je_quads a, je_quads b) {
  je_eights y;
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
    const uint32x4_t x = vreinterpretq_u32_u8(a.at[i]), z = vreinterpretq_u32_u8(b.at[i]);
    y.at[2 * i] = vreinterpretq_s8_u32(vzip1q_u32(x, z));
    y.at[2 * i + 1] = vreinterpretq_s8_u32(vzip2q_u32(x, z));
  }
  return y;
}
/* Add the products of eight inputs of two rows. */
JE_INLINE void m_dot(je_pairs* sums, je_eights weights, const int8_t* first, const int8_t* second) {
  const int8x16_t x = vcombine_s8(vld1_s8(first), vld1_s8(second));
  _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) sums->at[i] = vmmlaq_s32(sums->at[i], x, weights.at[i]);
}
