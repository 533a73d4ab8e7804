/* Products of one block for instruction sets that multiply eight inputs of two rows with two outputs at once. */

#define JE_PAIRS_AT_ONCE ((JE_ROWS_AT_ONCE + 1) / 2)

/* Add the products for 16 outputs. An odd last row is its own partner. x: (count, inputs of a block). */
JE_INLINE void dot_pairs(je_ints sums[JE_ROWS_AT_ONCE][1], const uint8_t* weights, const int8_t* x, const int bits,
                         const int block, const int count) {
  const int pairs = (count + 1) / 2;
  je_pairs both[JE_PAIRS_AT_ONCE];
  UNROLLED for (int p = 0, i = 0; p < pairs; p++, i += 2) both[p] =
      m_begin(sums[i][0], sums[i + 1 < count ? i + 1 : i][0]);
  _Pragma("GCC unroll 1") for (int at = 0; at < block; at += 8) { /* more would not fit the registers */
    const uint8_t* group = weights + at / 8 * (bits == 4 ? 1 : 2) * GROUP_BYTES;
    const je_quads stored = q_load(group);
    const je_eights zipped = bits == 4 ? m_zipped(q_low(stored), q_high(stored))
                                       : m_zipped(q_centered(stored), q_centered(q_load(group + GROUP_BYTES)));
    UNROLLED for (int p = 0, i = 0; p < pairs; p++, i += 2) {
      const int8_t* row = x + i * block + at;
      m_dot(&both[p], zipped, row, i + 1 < count ? row + block : row);
    }
  }
  UNROLLED for (int p = 0, i = 0; p < pairs; p++, i += 2) {
    sums[i][0] = m_first(both[p]);
    if (i + 1 < count) sums[i + 1][0] = m_second(both[p]);
  }
}

/* Add the products of one block of `bits`-bit weights. A single row takes the dot products, which need no zipping. */
JE_INLINE void dot_block(je_ints sums[JE_ROWS_AT_ONCE][1], const uint8_t* weights, const int8_t* x, const int bits,
                         const int block, const int count) {
  if (count > 1)
    dot_pairs(sums, weights, x, bits, block, count);
  else if (bits == 4)
    dot_nibbles(sums, weights, x, count);
  else
    dot_bytes(sums, weights, x, block, count);
}
