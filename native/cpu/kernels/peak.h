/* As many integer products as the processor can compute: all numbers in registers and the first-level cache, for a
 * benchmark. */

#define PEAK_GROUPS 8

static int64_t multiply_only(int repeats) {
  uint8_t weights[PEAK_GROUPS][64];
  int8_t inputs[PEAK_GROUPS][4 * JE_ROWS_AT_ONCE];
  je_ints sums[JE_ROWS_AT_ONCE][JE_HALVES];
  int32_t used = 0;
  for (size_t i = 0; i < sizeof weights; i++) ((uint8_t*)weights)[i] = i % 16;
  for (size_t i = 0; i < sizeof inputs; i++) ((int8_t*)inputs)[i] = (int8_t)(i * 37);
  for (int i = 0; i < JE_ROWS_AT_ONCE; i++)
    for (int h = 0; h < JE_HALVES; h++) sums[i][h] = i_all(i);
  for (int repeat = 0; repeat < repeats; repeat++) {
    je_partial partial[JE_ROWS_AT_ONCE][JE_HALVES];
    __asm__ volatile("" : : "r"(weights), "r"(inputs) : "memory"); /* the compiler cannot know the numbers */
    UNROLLED for (int i = 0; i < JE_ROWS_AT_ONCE; i++) UNROLLED for (int h = 0; h < JE_HALVES; h++)
      partial[i][h] = p_begin(sums[i][h]);
    UNROLLED_4 for (int g = 0; g < PEAK_GROUPS; g++) {
      const je_quads shared = q_load(weights[g]);
      UNROLLED for (int i = 0; i < JE_ROWS_AT_ONCE; i++) {
        const je_quads four = q_four(inputs[g] + 4 * i);
        UNROLLED for (int h = 0; h < JE_HALVES; h++) q_dot_nibbles(&partial[i][h], shared, four);
      }
    }
    UNROLLED for (int i = 0; i < JE_ROWS_AT_ONCE; i++) UNROLLED for (int h = 0; h < JE_HALVES; h++)
      sums[i][h] = p_end(sums[i][h], partial[i][h]);
  }
  for (int i = 0; i < JE_ROWS_AT_ONCE; i++)
    for (int h = 0; h < JE_HALVES; h++) used ^= i_sum(sums[i][h]);
  return (int64_t)repeats * PEAK_GROUPS * JE_ROWS_AT_ONCE * JE_HALVES * 128 + (used == INT32_MIN); /* it needs all sums */
}
