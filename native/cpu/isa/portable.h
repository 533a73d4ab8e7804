/* Plain C: what the other instruction sets must equal, bit for bit. Slow; used only where it is asked for. */
#include <math.h>
#include <string.h>

#define JE_HALVES 1
#define JE_ROWS_AT_ONCE 2

typedef struct {
  float at[16];
} je_floats;
typedef struct {
  int32_t at[16];
} je_ints, je_partial;
typedef struct {
  int16_t at[32];
} je_words;
typedef struct {
  uint8_t at[64];
} je_quads;

#define JE_LANES(type, value)                \
  type y;                                    \
  for (int i = 0; i < 16; i++) y.at[i] = (value); \
  return y

JE_INLINE je_floats f_load(const float* at) { JE_LANES(je_floats, at[i]); }
JE_INLINE void f_store(float* at, je_floats x) { memcpy(at, x.at, sizeof x); }
JE_INLINE je_floats f_all(float x) { JE_LANES(je_floats, x); }
JE_INLINE je_floats f_add(je_floats a, je_floats b) { JE_LANES(je_floats, a.at[i] + b.at[i]); }
JE_INLINE je_floats f_sub(je_floats a, je_floats b) { JE_LANES(je_floats, a.at[i] - b.at[i]); }
JE_INLINE je_floats f_mul(je_floats a, je_floats b) { JE_LANES(je_floats, a.at[i] * b.at[i]); }
JE_INLINE je_floats f_div(je_floats a, je_floats b) { JE_LANES(je_floats, a.at[i] / b.at[i]); }
JE_INLINE je_floats f_fma(je_floats a, je_floats b, je_floats c) { JE_LANES(je_floats, fmaf(a.at[i], b.at[i], c.at[i])); }
JE_INLINE je_floats f_fnma(je_floats a, je_floats b, je_floats c) {
  JE_LANES(je_floats, fmaf(-a.at[i], b.at[i], c.at[i]));
}
JE_INLINE je_floats f_max(je_floats a, je_floats b) { JE_LANES(je_floats, a.at[i] > b.at[i] ? a.at[i] : b.at[i]); }
JE_INLINE je_floats f_min(je_floats a, je_floats b) { JE_LANES(je_floats, a.at[i] < b.at[i] ? a.at[i] : b.at[i]); }
JE_INLINE je_floats f_abs(je_floats x) { JE_LANES(je_floats, fabsf(x.at[i])); }
JE_INLINE je_floats f_of(je_ints x) { JE_LANES(je_floats, (float)x.at[i]); }
JE_INLINE je_floats f_power_of_2(je_ints n) { JE_LANES(je_floats, ldexpf(1, n.at[i])); }
JE_INLINE void f_to_8(float eight[8], je_floats x, int takes_max) {
  for (int i = 0; i < 8; i++)
    eight[i] = !takes_max ? x.at[i] + x.at[i + 8] : x.at[i] > x.at[i + 8] ? x.at[i] : x.at[i + 8];
}

JE_INLINE je_ints i_all(int32_t x) { JE_LANES(je_ints, x); }
JE_INLINE je_ints i_rounded(je_floats x) { JE_LANES(je_ints, (int32_t)nearbyintf(x.at[i])); }
JE_INLINE je_ints i_add(je_ints a, je_ints b) { JE_LANES(je_ints, a.at[i] + b.at[i]); }
JE_INLINE int32_t i_sum(je_ints x) {
  int32_t sum = 0;
  for (int i = 0; i < 16; i++) sum += x.at[i];
  return sum;
}
/* Return the sum of each of 16 vectors. */
JE_INLINE je_ints i_sums(const je_ints x[16]) { JE_LANES(je_ints, i_sum(x[i])); }
JE_INLINE void i_store_bytes(int8_t* at, je_ints x) {
  for (int i = 0; i < 16; i++) at[i] = (int8_t)x.at[i];
}
JE_INLINE void i_store_words(int16_t* at, je_ints x) {
  for (int i = 0; i < 16; i++) at[i] = (int16_t)x.at[i];
}

JE_INLINE je_words w_load(const int16_t* at) {
  je_words y;
  memcpy(y.at, at, sizeof y);
  return y;
}
JE_INLINE void w_store(int16_t* at, je_words x) { memcpy(at, x.at, sizeof x); }
JE_INLINE je_words w_pair(const int16_t* at) {
  je_words y;
  for (int i = 0; i < 32; i++) y.at[i] = at[i % 2];
  return y;
}
JE_INLINE je_words w_widened(const int8_t* at) {
  je_words y;
  for (int i = 0; i < 32; i++) y.at[i] = at[i];
  return y;
}
JE_INLINE je_words je_zipped(const int8_t* a, const int8_t* b) {
  je_words y;
  for (int i = 0; i < 32; i++) y.at[i] = (i % 2 ? b : a)[i / 2];
  return y;
}
JE_INLINE void w_zip(je_words zipped[2], const int8_t* a, const int8_t* b) {
  zipped[0] = je_zipped(a, b);
  zipped[1] = je_zipped(a + 16, b + 16);
}
JE_INLINE void w_dot(je_ints* sums, je_words a, je_words b) {
  for (int i = 0; i < 32; i++) sums->at[i / 2] += a.at[i] * b.at[i];
}

JE_INLINE je_quads q_load(const uint8_t* at) {
  je_quads y;
  memcpy(y.at, at, sizeof y);
  return y;
}
JE_INLINE je_quads q_low(je_quads x) {
  for (int i = 0; i < 64; i++) x.at[i] &= 15;
  return x;
}
JE_INLINE je_quads q_high(je_quads x) {
  for (int i = 0; i < 64; i++) x.at[i] >>= 4;
  return x;
}
JE_INLINE je_quads q_four(const int8_t* at) {
  je_quads y;
  for (int i = 0; i < 64; i++) y.at[i] = (uint8_t)at[i % 4];
  return y;
}
JE_INLINE void q_dot(je_ints* sums, je_quads weights, je_quads x) {
  for (int i = 0; i < 64; i++) sums->at[i / 4] += weights.at[i] * (int8_t)x.at[i];
}
JE_INLINE void q_dot_nibbles(je_partial* sums, je_quads weights, je_quads x) {
  for (int i = 0; i < 64; i++) sums->at[i / 4] += weights.at[i] * (int8_t)x.at[i];
}
JE_INLINE je_partial p_begin(je_ints sums) { JE_LANES(je_partial, sums.at[i]); }
JE_INLINE je_ints p_end(je_ints sums, je_partial partial) {
  (void)sums;
  JE_LANES(je_ints, partial.at[i]);
}
