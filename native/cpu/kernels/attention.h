/* Causal attention over an 8-bit KV cache. The keys and values of the new positions are stored in the cache first. */

#define FEW_PASSES 4 /* up to so many times FEW_QUERIES are computed straight from the cache; for more it is widened first */

/* Quantize a key or value to 8 bits with the scales of its channels. */
static void store(int8_t* quantized, const float* x, const float* scales, int width) {
  for (int e = 0; e < width; e += 16) {
    const je_floats scaled = f_div(f_load(x + e), f_load(scales + e));
    i_store_bytes(quantized + e, i_rounded(f_max(f_all(-128), f_min(f_all(127), scaled))));
  }
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

/* Return what the queries of a piece attend to. next: the piece that follows, or -1. scales: where those of prepared queries
 * will lie. */
static je_queries queries_of(const je_attention* attention, int piece, int next, float* scratch, const float* scales) {
  const je_model* model = attention->model;
  const size_t width = (size_t)model->head_dim, each = (size_t)attention->cache_length * width;
  const size_t slots = je_padded((size_t)attention->lengths[piece / model->num_kv_heads]);
  je_queries q = {.keys = attention->keys + piece * each,
                  .values = attention->values + piece * each,
                  .queries = (int16_t*)scratch,
                  .query_scales = scales,
                  .value_scales = attention->layer->value_scales + piece % model->num_kv_heads * width,
                  .scores = scratch + JE_QUERIES * width,
                  .slots = slots,
                  .stride = (size_t)model->num_heads * width,
                  .width = model->head_dim,
                  .exact_slots = EXACT_SLOTS,
                  .most = QUANTIZED_MAX,
                  .next_keys = next < 0 ? NULL : attention->keys + next * each};
  q.keys16 = (int16_t*)(q.scores + JE_QUERIES * slots);
  q.values16 = q.keys16 + slots * width;
  return q;
}

static void attend(const je_attention* attention, int piece, int next, float* scratch) {
  const je_model* model = attention->model;
  const int row = piece / model->num_kv_heads, group = piece % model->num_kv_heads;
  const int width = model->head_dim, heads_per_group = model->num_heads / model->num_kv_heads;
  const size_t stride = (size_t)(model->num_heads + 2 * model->num_kv_heads) * width;
  const int length = (int)attention->lengths[row], valid = je_valid(attention, row), start = length - valid;
  const int wanted = attention->last_only && valid ? valid - 1 : 0; /* the first position that attends */
  const float* x = attention->qkv + (size_t)row * attention->time * stride;
  const int64_t* positions = attention->positions + (size_t)row * attention->time;
  const float* key_scales = attention->layer->key_scales + (size_t)group * width;
  int16_t* queries = (int16_t*)scratch;
  float query_scales[JE_QUERIES];
  je_queries q = queries_of(attention, piece, next, scratch, query_scales);
  store_new(attention, x, stride, positions, group, start, valid, (size_t)piece * attention->cache_length * width);
  const int is_widened = valid - wanted > FEW_QUERIES * FEW_PASSES;
  if (is_widened) widen(&q, length);
  for (int head = group * heads_per_group; head < (group + 1) * heads_per_group; head++) {
    const size_t at = (size_t)row * attention->time * model->num_heads + head;
    for (int t = wanted; t < valid; t += JE_QUERIES) {
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
