/* Attention of few queries of one head, straight from the cache. */

#define FEW_QUERIES 4     /* computed together */
#define VALUES_AT_ONCE 32 /* slots whose values stay in the first-level cache */
#define MOST_VECTORS (JE_MAX_HEAD_DIM / 16)

/* Prefetch keys or values of `count` slots from `first` on. */
JE_INLINE void prefetch_slots(const je_queries* q, const int8_t* x, int first, int count) {
  if (!x) return;
  const int8_t* start = x + (size_t)first * q->width;
  for (int at = 0; at < count * q->width; at += 64) __builtin_prefetch(start + at, 0, 2);
}

/* Compute scores of `count` queries with the slots before `end`, from the cache, 16 slots at a time. Those that fill the last
 * 16 are no slots: softmax drops them. */
JE_INLINE void score_few(const je_queries* q, int end, const int count) {
  const int width = q->width;
  for (int first = 0; first < end; first += 16) {
    je_ints products[FEW_QUERIES][16];
    prefetch_slots(q, q->values, first, 16);
    for (int i = 0; i < 16; i++) {
      const int8_t* key = q->keys + (size_t)(first + i < end ? first + i : end - 1) * width;
      je_ints sums[FEW_QUERIES];
      UNROLLED for (int n = 0; n < count; n++) sums[n] = i_all(0);
      for (int e = 0; e < width; e += 32) {
        const je_words wide = w_widened(key + e);
        UNROLLED for (int n = 0; n < count; n++) w_dot(&sums[n], w_load(q->queries + n * width + e), wide);
      }
      UNROLLED for (int n = 0; n < count; n++) products[n][i] = sums[n];
    }
    UNROLLED for (int n = 0; n < count; n++)
      f_store(q->scores + n * q->slots + first, f_mul(f_of(i_sums(products[n])), f_all(q->query_scales[n])));
  }
}

/* Add weights times values of the slots from `first` on, before `stop`, to sums (count, E). */
JE_INLINE void add_weighed(je_ints sums[FEW_QUERIES][MOST_VECTORS], const je_queries* q, int first, int stop,
                           const int count) {
  const size_t width = (size_t)q->width;
  for (size_t e = 0; e < width; e += 32) {
    je_ints two[FEW_QUERIES][2];
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < 2; h++) two[i][h] = sums[i][e / 16 + h];
    for (int slot = first; slot < stop; slot += 2) {
      const int8_t* a = q->values + slot * width + e;
      je_words zipped[2];
      w_zip(zipped, a, slot + 1 < stop ? a + width : a);
      UNROLLED for (int i = 0; i < count; i++) {
        const je_words weights = w_pair((const int16_t*)(q->scores + i * q->slots) + slot);
        UNROLLED for (int h = 0; h < 2; h++) w_dot(&two[i][h], zipped[h], weights);
      }
    }
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < 2; h++) sums[i][e / 16 + h] = two[i][h];
  }
}

/* Weigh the values of the slots before `end` for `count` queries, in the order in which they lie in the cache. */
JE_INLINE void weigh_few(const je_queries* q, const float* factors, int end, const int count) {
  const int vectors = q->width / 16;
  je_floats results[FEW_QUERIES][MOST_VECTORS];
  for (int start = 0; start < end; start += EXACT_SLOTS) {
    const int stop = start + EXACT_SLOTS < end ? start + EXACT_SLOTS : end;
    je_ints sums[FEW_QUERIES][MOST_VECTORS];
    for (int i = 0; i < count; i++)
      for (int v = 0; v < vectors; v++) sums[i][v] = i_all(0);
    for (int first = start; first < stop; first += VALUES_AT_ONCE) {
      prefetch_slots(q, q->next_keys, first, VALUES_AT_ONCE);
      add_weighed(sums, q, first, first + VALUES_AT_ONCE < stop ? first + VALUES_AT_ONCE : stop, count);
    }
    for (int i = 0; i < count; i++)
      for (int v = 0; v < vectors; v++) {
        const je_floats sum = f_of(sums[i][v]);
        results[i][v] = start ? f_add(results[i][v], sum) : sum;
      }
  }
  for (int i = 0; i < count; i++)
    for (int v = 0; v < vectors; v++) write_channels(q, i, 16 * v, results[i][v], factors[i]);
}

/* Attention of up to FEW_QUERIES queries, straight from the cache. */
JE_INLINE void attend_few(const je_queries* q, const int count) {
  const int length = q->first + count; /* of the last query */
  float factors[FEW_QUERIES];
  score_few(q, length, count);
  for (int i = 0; i < count; i++)
    factors[i] = softmax(q->scores + i * q->slots, q->first + i + 1, (int)je_padded((size_t)length), QUANTIZED_MAX);
  weigh_few(q, factors, length, count);
}
