/* NEON with dot product. Vectors of 16 numbers are four registers. */
#include <arm_neon.h>

#define JE_HALVES 1
#define JE_ROWS_AT_ONCE 4 /* 16 registers of sums, and the weights, fill the 32 registers */

typedef struct {
  float32x4_t at[4];
} je_floats;
typedef struct {
  int32x4_t at[4];
} je_ints, je_partial;
typedef struct {
  int16x8_t at[4];
} je_words;
typedef struct {
  uint8x16_t at[4];
} je_quads;

#define JE_PARTS(type, value)                    \
  type y;                                        \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) y.at[i] = (value); \
  return y

JE_INLINE je_floats f_load(const float* at) { JE_PARTS(je_floats, vld1q_f32(at + 4 * i)); }
JE_INLINE void f_store(float* at, je_floats x) {
  for (int i = 0; i < 4; i++) vst1q_f32(at + 4 * i, x.at[i]);
}
JE_INLINE je_floats f_all(float x) { JE_PARTS(je_floats, vdupq_n_f32(x)); }
JE_INLINE je_floats f_add(je_floats a, je_floats b) { JE_PARTS(je_floats, vaddq_f32(a.at[i], b.at[i])); }
JE_INLINE je_floats f_sub(je_floats a, je_floats b) { JE_PARTS(je_floats, vsubq_f32(a.at[i], b.at[i])); }
JE_INLINE je_floats f_mul(je_floats a, je_floats b) { JE_PARTS(je_floats, vmulq_f32(a.at[i], b.at[i])); }
JE_INLINE je_floats f_div(je_floats a, je_floats b) { JE_PARTS(je_floats, vdivq_f32(a.at[i], b.at[i])); }
JE_INLINE je_floats f_fma(je_floats a, je_floats b, je_floats c) {
  JE_PARTS(je_floats, vfmaq_f32(c.at[i], a.at[i], b.at[i]));
}
JE_INLINE je_floats f_fnma(je_floats a, je_floats b, je_floats c) {
  JE_PARTS(je_floats, vfmsq_f32(c.at[i], a.at[i], b.at[i]));
}
JE_INLINE je_floats f_max(je_floats a, je_floats b) { JE_PARTS(je_floats, vmaxq_f32(a.at[i], b.at[i])); }
JE_INLINE je_floats f_min(je_floats a, je_floats b) { JE_PARTS(je_floats, vminq_f32(a.at[i], b.at[i])); }
JE_INLINE je_floats f_abs(je_floats x) { JE_PARTS(je_floats, vabsq_f32(x.at[i])); }
JE_INLINE je_floats f_of(je_ints x) { JE_PARTS(je_floats, vcvtq_f32_s32(x.at[i])); }
JE_INLINE je_floats f_power_of_2(je_ints n) {
  JE_PARTS(je_floats, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.at[i], vdupq_n_s32(127)), 23)));
}
JE_INLINE void f_to_8(float eight[8], je_floats x, int takes_max) {
  for (int i = 0; i < 2; i++)
    vst1q_f32(eight + 4 * i, takes_max ? vmaxq_f32(x.at[i], x.at[i + 2]) : vaddq_f32(x.at[i], x.at[i + 2]));
}

JE_INLINE je_ints i_all(int32_t x) { JE_PARTS(je_ints, vdupq_n_s32(x)); }
JE_INLINE je_ints i_rounded(je_floats x) { JE_PARTS(je_ints, vcvtnq_s32_f32(x.at[i])); }
JE_INLINE je_ints i_add(je_ints a, je_ints b) { JE_PARTS(je_ints, vaddq_s32(a.at[i], b.at[i])); }
JE_INLINE int32_t i_sum(je_ints x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.at[0], x.at[1]), vaddq_s32(x.at[2], x.at[3])));
}
JE_INLINE int32x4_t je_four_sums(je_ints x) {
  return vaddq_s32(vaddq_s32(x.at[0], x.at[1]), vaddq_s32(x.at[2], x.at[3]));
}
/* Return the sum of each of 16 vectors. */
JE_INLINE je_ints i_sums(const je_ints x[16]) {
  JE_PARTS(je_ints, vpaddq_s32(vpaddq_s32(je_four_sums(x[4 * i]), je_four_sums(x[4 * i + 1])),
                               vpaddq_s32(je_four_sums(x[4 * i + 2]), je_four_sums(x[4 * i + 3]))));
}
JE_INLINE int16x8_t je_narrowed(je_ints x, int i) {
  return vcombine_s16(vmovn_s32(x.at[i]), vmovn_s32(x.at[i + 1]));
}
JE_INLINE void i_store_words(int16_t* at, je_ints x) {
  vst1q_s16(at, je_narrowed(x, 0));
  vst1q_s16(at + 8, je_narrowed(x, 2));
}
JE_INLINE void i_store_bytes(int8_t* at, je_ints x) {
  vst1q_s8(at, vcombine_s8(vmovn_s16(je_narrowed(x, 0)), vmovn_s16(je_narrowed(x, 2))));
}

JE_INLINE je_words w_load(const int16_t* at) { JE_PARTS(je_words, vld1q_s16(at + 8 * i)); }
JE_INLINE void w_store(int16_t* at, je_words x) {
  for (int i = 0; i < 4; i++) vst1q_s16(at + 8 * i, x.at[i]);
}
JE_INLINE je_words w_pair(const int16_t* at) {
  JE_PARTS(je_words, vreinterpretq_s16_s32(vld1q_dup_s32((const int32_t*)at)));
}
JE_INLINE je_words w_widened(const int8_t* at) { JE_PARTS(je_words, vmovl_s8(vld1_s8(at + 8 * i))); }
JE_INLINE je_words je_zipped(const int8_t* a, const int8_t* b) {
  const int8x16_t x = vld1q_s8(a), y = vld1q_s8(b), low = vzip1q_s8(x, y), high = vzip2q_s8(x, y);
  return (je_words){{vmovl_s8(vget_low_s8(low)), vmovl_high_s8(low), vmovl_s8(vget_low_s8(high)), vmovl_high_s8(high)}};
}
JE_INLINE void w_zip(je_words zipped[2], const int8_t* a, const int8_t* b) {
  zipped[0] = je_zipped(a, b);
  zipped[1] = je_zipped(a + 16, b + 16);
}
JE_INLINE void w_dot(je_ints* sums, je_words a, je_words b) {
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
    const int32x4_t low = vmull_s16(vget_low_s16(a.at[i]), vget_low_s16(b.at[i]));
    sums->at[i] = vaddq_s32(sums->at[i], vpaddq_s32(low, vmull_high_s16(a.at[i], b.at[i])));
  }
}

JE_INLINE je_quads q_load(const uint8_t* at) { JE_PARTS(je_quads, vld1q_u8(at + 16 * i)); }
JE_INLINE je_quads q_low(je_quads x) { JE_PARTS(je_quads, vandq_u8(x.at[i], vdupq_n_u8(15))); }
JE_INLINE je_quads q_high(je_quads x) { JE_PARTS(je_quads, vshrq_n_u8(x.at[i], 4)); }
JE_INLINE je_quads q_four(const int8_t* at) {
  JE_PARTS(je_quads, vreinterpretq_u8_s32(vld1q_dup_s32((const int32_t*)at)));
}
JE_INLINE void q_dot_nibbles(je_partial* sums, je_quads weights, je_quads x) {
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
    sums->at[i] = vdotq_s32(sums->at[i], vreinterpretq_s8_u8(weights.at[i]), vreinterpretq_s8_u8(x.at[i]));
}
JE_INLINE je_quads q_centered(je_quads x) { JE_PARTS(je_quads, veorq_u8(x.at[i], vdupq_n_u8(128))); }
#define JE_BYTES_ARE_CENTERED /* q_dot multiplies x by weights - 128 */
JE_INLINE void q_dot(je_ints* sums, je_quads weights, je_quads x) {
  q_dot_nibbles(sums, q_centered(weights), x);
}
JE_INLINE je_partial p_begin(je_ints sums) { JE_PARTS(je_partial, sums.at[i]); }
JE_INLINE je_ints p_end(je_ints sums, je_partial partial) {
  (void)sums;
  JE_PARTS(je_ints, partial.at[i]);
}
