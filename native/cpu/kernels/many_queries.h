/* Attention of many queries of one head, over keys and values that are widened to 16 bits first. */

/* Widen keys and values of all slots to 16 bits, for many queries. The last tile is filled with zeros. */
static void widen(const je_queries* q, int length) {
  static const int8_t kZeros[JE_MAX_HEAD_DIM];
  const int end = (int)je_padded((size_t)length), width = q->width;
  for (int slot = 0; slot < end; slot++) {
    const int8_t* key = slot < length ? q->keys + (size_t)slot * width : kZeros;
    int16_t* tile = q->keys16 + (size_t)(slot / 16) * 16 * width + slot % 16 * 2;
    for (int pair = 0; pair < width / 2; pair++) {
      tile[pair * 32] = key[2 * pair];
      tile[pair * 32 + 1] = key[2 * pair + 1];
    }
  }
  for (int slot = 0; slot < end; slot += 2) {
    const int8_t* a = slot < length ? q->values + (size_t)slot * width : kZeros;
    const int8_t* b = slot + 1 < length ? q->values + (size_t)(slot + 1) * width : kZeros;
    for (int e = 0; e < width; e += 32) {
      je_words zipped[2];
      w_zip(zipped, a + e, b + e);
      for (int h = 0; h < 2; h++) w_store(q->values16 + (size_t)slot * width + 2 * e + 32 * h, zipped[h]);
    }
  }
}

/* sums (JE_QUERIES, vectors) += a (queries, pairs, 2) times b (vectors, pairs, 16, 2). strides: numbers from one row to the
 * next. next: numbers from one vector of b to the next. */
JE_INLINE void add_products(je_ints sums[JE_QUERIES][JE_HALVES], const int16_t* a, size_t a_stride, const int16_t* b,
                            size_t b_stride, size_t next, int pairs, const int vectors) {
  for (int k = 0; k < pairs; k++) {
    je_words shared[JE_HALVES];
    UNROLLED for (int v = 0; v < vectors; v++) shared[v] = w_load(b + k * b_stride + v * next);
    UNROLLED for (int i = 0; i < JE_QUERIES; i++) {
      const je_words both = w_pair(a + i * a_stride + 2 * k);
      UNROLLED for (int v = 0; v < vectors; v++) w_dot(&sums[i][v], both, shared[v]);
    }
  }
}

/* Write the scores of all queries with the slots of `vectors` tiles of 16, from `slot` on. */
JE_INLINE void score_many(const je_queries* q, int slot, const int vectors) {
  const size_t width = (size_t)q->width;
  je_ints sums[JE_QUERIES][JE_HALVES];
  UNROLLED for (int i = 0; i < JE_QUERIES; i++) UNROLLED for (int v = 0; v < vectors; v++) sums[i][v] = i_all(0);
  add_products(sums, q->queries, width, q->keys16 + slot * width, 32, 16 * width, q->width / 2, vectors);
  UNROLLED for (int i = 0; i < JE_QUERIES; i++) UNROLLED for (int v = 0; v < vectors; v++)
    f_store(q->scores + i * q->slots + slot + 16 * v, f_mul(f_of(sums[i][v]), f_all(q->query_scales[i])));
}

/* Write weights times values, of all queries and `vectors` times 16 channels from e on. */
JE_INLINE void weigh_many(const je_queries* q, const float* factors, int end, int e, int count, const int vectors) {
  je_floats results[JE_QUERIES][JE_HALVES];
  for (int i = 0; i < JE_QUERIES; i++)
    for (int v = 0; v < vectors; v++) results[i][v] = f_all(0);
  for (int start = 0; start < end; start += q->exact_slots) {
    const int stop = start + q->exact_slots < end ? start + q->exact_slots : end;
    je_ints sums[JE_QUERIES][JE_HALVES];
    UNROLLED for (int i = 0; i < JE_QUERIES; i++) UNROLLED for (int v = 0; v < vectors; v++) sums[i][v] = i_all(0);
    add_products(sums, (const int16_t*)q->scores + start, 2 * q->slots,
                 q->values16 + (size_t)start * q->width + 2 * e, 2 * (size_t)q->width, 32, (stop - start) / 2, vectors);
    for (int i = 0; i < JE_QUERIES; i++)
      for (int v = 0; v < vectors; v++) results[i][v] = f_add(results[i][v], f_of(sums[i][v]));
  }
  for (int i = 0; i < count; i++)
    for (int v = 0; v < vectors; v++) write_channels(q, i, e + 16 * v, results[i][v], factors[i]);
}

/* Attention of JE_QUERIES queries over widened keys and values; the first `count` are written. Slots after a query's own
 * are not computed, except those that fill the last tile. */
static void attend_many(const je_queries* q, int count) {
  const int width = q->width, end = (int)je_padded(q->length ? (size_t)q->length : (size_t)q->first + JE_QUERIES);
  float factors[JE_QUERIES];
  for (int slot = 0; slot < end; slot += 16 * JE_HALVES) score_many(q, slot, JE_HALVES);
  for (int i = 0; i < JE_QUERIES; i++)
    factors[i] = softmax(q->scores + i * q->slots, q->length ? q->length : q->first + i + 1, end, q->most);
  int e = 0;
  for (; e + 16 * JE_HALVES <= width; e += 16 * JE_HALVES) weigh_many(q, factors, end, e, count, JE_HALVES);
  for (; e < width; e += 16) weigh_many(q, factors, end, e, count, 1);
}
