/* Causal attention over an 8-bit KV cache, and full attention (attend_all). Of the former, the keys and values of the new
 * positions are stored in the cache first.
 *
 * Products are summed in integers, exactly: queries and attention weights have 16 bits. So the order of those sums is
 * free, and a query's result does not depend on how many queries are computed together. */

#define QUANTIZED_MAX 32767 /* of queries and attention weights, in 16 bits */
#define EXACT_SLOTS 512     /* up to this many slots, a sum of weight * value stays below 2^31 */
#define FEW_QUERIES 4       /* computed together straight from the cache */
#define FEW_PASSES 4        /* up to so many times; for more queries the cache is widened first */

/* Rotate a head by its position (RoPE): channel i with channel i + E / 2. */
static void rotate(float* y, const float* x, const je_model* model, int64_t position) {
  const int half = model->head_dim / 2;
  const float *cos = model->cos + position * half, *sin = model->sin + position * half;
  for (int e = 0; e < half; e += 16) {
    const je_floats a = f_load(x + e), b = f_load(x + half + e), c = f_load(cos + e), s = f_load(sin + e);
    f_store(y + e, f_fnma(b, s, f_mul(a, c)));
    f_store(y + half + e, f_fma(b, c, f_mul(a, s)));
  }
}

/* Quantize a key or value to 8 bits with the scales of its channels. */
static void store(int8_t* quantized, const float* x, const float* scales, int width) {
  for (int e = 0; e < width; e += 16) {
    const je_floats scaled = f_div(f_load(x + e), f_load(scales + e));
    i_store_bytes(quantized + e, i_rounded(f_max(f_all(-128), f_min(f_all(127), scaled))));
  }
}

/* Rotate a query, multiply it by the keys' scales and 1 / sqrt(E), and quantize it to 16 bits. Return the scale. */
static float prepare_query(int16_t* quantized, const float* x, const je_model* model, const float* key_scales,
                           int64_t position) {
  const int width = model->head_dim;
  float query[JE_MAX_HEAD_DIM];
  rotate(query, x, model, position);
  const je_floats factor = f_all(1 / sqrtf((float)width));
  je_floats magnitudes = f_all(1e-30f);
  for (int e = 0; e < width; e += 16) {
    const je_floats scaled = f_mul(f_mul(f_load(query + e), f_load(key_scales + e)), factor);
    f_store(query + e, scaled);
    magnitudes = f_max(magnitudes, f_abs(scaled));
  }
  const float peak = largest_of(magnitudes);
  const je_floats inverse = f_all(QUANTIZED_MAX / peak);
  for (int e = 0; e < width; e += 16) /* 32767 times a rounding error is below 32767.5 */
    i_store_words(quantized + e, i_rounded(f_mul(f_load(query + e), inverse)));
  return peak / QUANTIZED_MAX;
}

/* Replace scores (end) by attention weights from 0 to `most` in 16 bits, in place. Slots from `length` on get none. Return
 * the factor by which weights are to be multiplied. */
static float softmax(float* scores, int length, int end, float most) {
  for (int i = length; i < end; i++) scores[i] = -INFINITY;
  je_floats largest = f_load(scores), sum = f_all(0);
  for (int i = 16; i < end; i += 16) largest = f_max(largest, f_load(scores + i));
  const je_floats peak = f_all(largest_of(largest));
  for (int i = 0; i < length; i += 16) f_store(scores + i, je_exp(f_sub(f_load(scores + i), peak)));
  for (int i = length; i < end; i++) scores[i] = 0;
  for (int i = 0; i < end; i += 16) {
    const je_floats weight = f_load(scores + i);
    sum = f_add(sum, weight);
    i_store_words((int16_t*)scores + i, i_rounded(f_mul(weight, f_all(most))));
  }
  return 1 / sum_of(sum) / most;
}

/* Queries of one head and what they attend to. */
typedef struct {
  const int8_t *keys, *values;        /* (slots, E) */
  int16_t *keys16, *values16;         /* widened: (slots / 16, E / 2, 16, 2) and (slots / 2, E, 2) */
  const int16_t* queries;             /* (JE_QUERIES, E) */
  const float *query_scales, *value_scales;
  float* scores; /* (JE_QUERIES, slots) */
  size_t slots, stride;
  int width, first; /* the slot of the first query */
  int length;       /* slots that all queries see; 0: each sees those up to its own */
  int exact_slots;  /* up to this many slots, a sum of weight * value stays below 2^31 */
  float most;       /* the largest weight */
  float* y;         /* (queries, stride) */
} je_queries;

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
    for (int e = 0; e < width; e += 16) w_store(q->values16 + (size_t)slot * width + 2 * e, w_zipped(a + e, b + e));
  }
}

/* Compute scores of `count` queries with the slots before `end`, from the cache, 16 slots at a time. Those that fill the last
 * 16 are no slots: softmax drops them. */
JE_INLINE void score_few(const je_queries* q, int end, const int count) {
  const int width = q->width;
  for (int first = 0; first < end; first += 16) {
    je_ints products[FEW_QUERIES][16];
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

/* Write 16 channels from e on of query i. */
JE_INLINE void write_channels(const je_queries* q, int i, int e, je_floats sum, float factor) {
  f_store(q->y + i * q->stride + e, f_mul(sum, f_mul(f_all(factor), f_load(q->value_scales + e))));
}

/* Weigh the values of the slots before `end` for `count` queries, from the cache. */
JE_INLINE void weigh_few(const je_queries* q, const float* factors, int end, const int count) {
  const int width = q->width;
  for (int e = 0; e < width; e += 32) {
    je_floats results[FEW_QUERIES][2];
    UNROLLED for (int i = 0; i < count; i++) results[i][0] = results[i][1] = f_all(0);
    for (int start = 0; start < end; start += EXACT_SLOTS) {
      const int stop = start + EXACT_SLOTS < end ? start + EXACT_SLOTS : end;
      je_ints sums[FEW_QUERIES][2];
      UNROLLED for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = i_all(0);
      for (int slot = start; slot < stop; slot += 2) {
        const int8_t *a = q->values + (size_t)slot * width + e, *b = slot + 1 < end ? a + width : a;
        const je_words left = w_zipped(a, b), right = w_zipped(a + 16, b + 16);
        UNROLLED for (int i = 0; i < count; i++) {
          const je_words weights = w_pair((const int16_t*)(q->scores + i * q->slots) + slot);
          w_dot(&sums[i][0], left, weights);
          w_dot(&sums[i][1], right, weights);
        }
      }
      UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < 2; h++)
        results[i][h] = f_add(results[i][h], f_of(sums[i][h]));
    }
    UNROLLED for (int i = 0; i < count; i++) UNROLLED for (int h = 0; h < 2; h++)
      write_channels(q, i, e + 16 * h, results[i][h], factors[i]);
  }
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

/* sums (JE_QUERIES) += a (queries, pairs, 2) times b (pairs, 16, 2). strides: numbers from one row to the next. */
JE_INLINE void add_products(je_ints sums[JE_QUERIES], const int16_t* a, size_t a_stride, const int16_t* b,
                            size_t b_stride, int pairs) {
  for (int k = 0; k < pairs; k++) {
    const je_words shared = w_load(b + k * b_stride);
    UNROLLED for (int i = 0; i < JE_QUERIES; i++) w_dot(&sums[i], w_pair(a + i * a_stride + 2 * k), shared);
  }
}

/* Write weights times values, of all queries and 16 channels from e on. */
static void weigh_many(const je_queries* q, const float* factors, int end, int e, int count) {
  je_floats results[JE_QUERIES];
  for (int i = 0; i < JE_QUERIES; i++) results[i] = f_all(0);
  for (int start = 0; start < end; start += q->exact_slots) {
    const int stop = start + q->exact_slots < end ? start + q->exact_slots : end;
    je_ints sums[JE_QUERIES];
    UNROLLED for (int i = 0; i < JE_QUERIES; i++) sums[i] = i_all(0);
    add_products(sums, (const int16_t*)q->scores + start, 2 * q->slots,
                 q->values16 + (size_t)start * q->width + 2 * e, 2 * (size_t)q->width, (stop - start) / 2);
    for (int i = 0; i < JE_QUERIES; i++) results[i] = f_add(results[i], f_of(sums[i]));
  }
  for (int i = 0; i < count; i++) write_channels(q, i, e, results[i], factors[i]);
}

/* Attention of JE_QUERIES queries over widened keys and values; the first `count` are written. Slots after a query's own
 * are not computed, except those that fill the last tile. */
static void attend_many(const je_queries* q, int count) {
  const int width = q->width, end = (int)je_padded(q->length ? (size_t)q->length : (size_t)q->first + JE_QUERIES);
  float factors[JE_QUERIES];
  for (int slot = 0; slot < end; slot += 16) {
    je_ints sums[JE_QUERIES];
    UNROLLED for (int i = 0; i < JE_QUERIES; i++) sums[i] = i_all(0);
    add_products(sums, q->queries, (size_t)width, q->keys16 + (size_t)slot * width, 32, width / 2);
    UNROLLED for (int i = 0; i < JE_QUERIES; i++)
      f_store(q->scores + i * q->slots + slot, f_mul(f_of(sums[i]), f_all(q->query_scales[i])));
  }
  for (int i = 0; i < JE_QUERIES; i++)
    factors[i] = softmax(q->scores + i * q->slots, q->length ? q->length : q->first + i + 1, end, q->most);
  for (int e = 0; e < width; e += 16) weigh_many(q, factors, end, e, count);
}

/* Store the keys and values of the new positions of one row and group in the cache, from slot `start` on. */
static void store_new(const je_attention* attention, const float* x, size_t stride, const int64_t* positions, int group,
                      int start, int valid, size_t cache) {
  const je_model* model = attention->model;
  const int width = model->head_dim;
  float rotated[JE_MAX_HEAD_DIM];
  for (int t = 0; t < valid; t++) {
    const float* key = x + t * stride + (size_t)(model->num_heads + group) * width;
    const size_t at = cache + (size_t)(start + t) * width, scales = (size_t)group * width;
    rotate(rotated, key, model, positions[t]);
    store(attention->keys + at, rotated, attention->layer->key_scales + scales, width);
    store(attention->values + at, key + (size_t)model->num_kv_heads * width, attention->layer->value_scales + scales,
          width);
  }
}

/* Attend with up to JE_QUERIES prepared queries. */
static void attend_queries(je_queries q, int count, int is_widened) {
  if (count == JE_QUERIES && is_widened) {
    attend_many(&q, count);
    return;
  }
  while (count > 0) {
    const int now = count >= FEW_QUERIES ? FEW_QUERIES : count >= 2 ? 2 : 1;
    if (now == FEW_QUERIES) attend_few(&q, FEW_QUERIES);
    if (now == 2) attend_few(&q, 2);
    if (now == 1) attend_few(&q, 1);
    q.queries += now * q.width;
    q.query_scales += now;
    q.first += now;
    q.y += now * q.stride;
    count -= now;
  }
}

static void attend(const je_attention* attention, int row, int group, float* scratch) {
  const je_model* model = attention->model;
  const int width = model->head_dim, heads_per_group = model->num_heads / model->num_kv_heads;
  const size_t stride = (size_t)(model->num_heads + 2 * model->num_kv_heads) * width;
  const int length = (int)attention->lengths[row], start = length > attention->time ? length - attention->time : 0;
  const int valid = length - start; /* new positions without padding */
  const size_t cache = ((size_t)row * model->num_kv_heads + group) * attention->cache_length * width;
  const float* x = attention->qkv + (size_t)row * attention->time * stride;
  const int64_t* positions = attention->positions + (size_t)row * attention->time;
  const float* key_scales = attention->layer->key_scales + (size_t)group * width;
  const size_t slots = je_padded((size_t)length);
  int16_t* queries = (int16_t*)scratch;
  float query_scales[JE_QUERIES];
  store_new(attention, x, stride, positions, group, start, valid, cache);
  je_queries q = {.keys = attention->keys + cache,
                  .values = attention->values + cache,
                  .queries = queries,
                  .query_scales = query_scales,
                  .value_scales = attention->layer->value_scales + (size_t)group * width,
                  .scores = scratch + JE_QUERIES * width,
                  .slots = slots,
                  .stride = (size_t)model->num_heads * width,
                  .width = width,
                  .exact_slots = EXACT_SLOTS,
                  .most = QUANTIZED_MAX};
  q.keys16 = (int16_t*)(q.scores + JE_QUERIES * slots);
  q.values16 = q.keys16 + slots * width;
  const int is_widened = valid > FEW_QUERIES * FEW_PASSES;
  if (is_widened) widen(&q, length);
  for (int head = group * heads_per_group; head < (group + 1) * heads_per_group; head++) {
    const size_t at = (size_t)row * attention->time * model->num_heads + head;
    for (int t = 0; t < valid; t += JE_QUERIES) {
      const int count = valid - t < JE_QUERIES ? valid - t : JE_QUERIES;
      for (int i = 0; i < count; i++)
        query_scales[i] = prepare_query(queries + (size_t)i * width, x + (t + i) * stride + (size_t)head * width, model,
                                        key_scales, positions[t + i]);
      q.first = start + t;
      q.y = attention->attended + at * width + t * q.stride;
      attend_queries(q, count, is_widened);
    }
  }
}
