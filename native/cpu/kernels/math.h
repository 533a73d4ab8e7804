/* Functions of vectors, above one instruction set. The order of all operations is fixed (docs/cpu-kernels.md). */

/* Return a sum or the largest: lane i with i + 8, then i + 4, i + 2, i + 1. */
JE_INLINE float sum_of(je_floats x) {
  float v[8];
  f_to_8(v, x, 0);
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
JE_INLINE float largest_of(je_floats x) {
  float v[8], largest;
  f_to_8(v, x, 1);
  largest = v[0];
  for (int i = 1; i < 8; i++) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

/* e^x, within 2 units in the last place; x outside -87 ... 88 counts as the nearer of these. */
JE_INLINE je_floats je_exp(je_floats x) {
  x = f_max(f_all(-87), f_min(f_all(88), x)); /* in this order NaN stays NaN */
  const je_ints count = i_rounded(f_mul(x, f_all(1.44269504f)));
  je_floats rest = f_fnma(f_of(count), f_all(0.693145752f), x);
  rest = f_fnma(f_of(count), f_all(1.42860677e-6f), rest);
  je_floats power = f_all(1.0f / 720);
  power = f_fma(power, rest, f_all(1.0f / 120));
  power = f_fma(power, rest, f_all(1.0f / 24));
  power = f_fma(power, rest, f_all(1.0f / 6));
  power = f_fma(power, rest, f_all(0.5f));
  power = f_fma(power, rest, f_all(1));
  power = f_fma(power, rest, f_all(1));
  return f_mul(power, f_power_of_2(count));
}

/* x / (1 + e^-x). */
JE_INLINE je_floats je_silu(je_floats x) {
  return f_div(x, f_add(f_all(1), je_exp(f_sub(f_all(0), x))));
}

/* x (1 + erf(x / sqrt 2)) / 2, erf by Abramowitz and Stegun 7.1.26, within 1.5e-7. */
JE_INLINE je_floats je_gelu(je_floats x) {
  static const float kTerms[] = {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
  const je_floats z = f_mul(f_abs(x), f_all(0.70710678f));
  const je_floats t = f_div(f_all(1), f_fma(f_all(0.3275911f), z, f_all(1)));
  je_floats series = f_all(1.061405429f);
  for (int i = 0; i < 4; i++) series = f_fma(series, t, f_all(kTerms[i]));
  const je_floats tail = f_mul(f_mul(series, t), je_exp(f_sub(f_all(0), f_mul(z, z)))); /* 1 - erf(z) */
  /* x >= 0: x - x tail / 2; x < 0: x tail / 2. Both are max(x, 0) - |x| tail / 2. */
  return f_fnma(f_mul(f_abs(x), f_all(0.5f)), tail, f_max(f_all(0), x));
}
