/* Attention of all slots to all slots, without a cache.
 *
 * Queries, keys, values and weights are quantized to 16 bits, each as finely as the exact sum of products in 32 bits
 * allows: keys and values with one scale per head, queries with one each. */

#define SLOTS_AT_ONCE 64 /* weights times values are summed in integers over so many slots */

/* Return the largest n so that the sum of `count` products of numbers up to n is below 2^31. */
static float most_of(int count) {
  float most = floorf(sqrtf(2147483647.0f / (float)count));
  return most > QUANTIZED_MAX ? QUANTIZED_MAX : most;
}

/* Return the largest magnitude in (rows, width), whose rows are `stride` apart. */
static float largest_magnitude(const float* x, int rows, int width, size_t stride) {
  je_floats largest = f_all(1e-30f);
  for (int row = 0; row < rows; row++)
    for (int e = 0; e < width; e += 16) largest = f_max(largest, f_abs(f_load(x + row * stride + e)));
  return largest_of(largest);
}

/* Quantize `width` numbers to 16 bits: x * inverse. */
static void to_words(int16_t* quantized, const float* x, int width, float inverse) {
  for (int e = 0; e < width; e += 16) i_store_words(quantized + e, i_rounded(f_mul(f_load(x + e), f_all(inverse))));
}

/* Lay keys out in tiles of 16 slots and values in pairs of slots, as attend_many reads them. The last tile is filled with
 * zeros. row: room for 2 * E numbers of 16 bits. */
static void lay_out(const je_queries* q, const float* keys, const float* values, int length, size_t stride,
                    float key_inverse, float value_inverse, int16_t* row) {
  const int width = q->width, end = (int)je_padded((size_t)length);
  memset(row, 0, 2 * (size_t)width * sizeof *row);
  for (int slot = 0; slot < end; slot++) {
    if (slot < length) to_words(row, keys + slot * stride, width, key_inverse);
    if (slot == length) memset(row, 0, (size_t)width * sizeof *row);
    int16_t* tile = q->keys16 + (size_t)(slot / 16) * 16 * width + slot % 16 * 2;
    for (int pair = 0; pair < width / 2; pair++) memcpy(tile + pair * 32, row + 2 * pair, 2 * sizeof *row);
  }
  for (int slot = 0; slot < end; slot += 2) {
    for (int i = 0; i < 2; i++) {
      if (slot + i < length)
        to_words(row + i * width, values + (slot + i) * stride, width, value_inverse);
      else
        memset(row + i * width, 0, (size_t)width * sizeof *row);
    }
    int16_t* pairs = q->values16 + (size_t)slot * width;
    for (int e = 0; e < width; e++) {
      pairs[2 * e] = row[e];
      pairs[2 * e + 1] = row[width + e];
    }
  }
}

/* Quantize up to JE_QUERIES queries from slot q->first on; those that are missing stay as they are. Return how many. */
static int take_queries(const je_queries* q, int16_t* queries, float* scales, const float* x, size_t stride,
                        float factor) {
  const int left = q->length - q->first, count = left < JE_QUERIES ? left : JE_QUERIES;
  const float most = most_of(q->width);
  for (int i = 0; i < count; i++) {
    const float peak = largest_magnitude(x + i * stride, 1, q->width, 0);
    to_words(queries + (size_t)i * q->width, x + i * stride, q->width, most / peak);
    scales[i] = peak / most * factor;
  }
  return count;
}

static void attend_all(const je_full_attention* attention, int head, float* scratch) {
  const int width = attention->head_dim, length = attention->num_slots;
  const size_t heads_width = (size_t)attention->num_heads * width, stride = 3 * heads_width;
  const size_t slots = je_padded((size_t)length);
  const float *queries = attention->qkv + (size_t)head * width, *keys = queries + heads_width;
  const float *values = keys + heads_width, most = most_of(width);
  int16_t* quantized = (int16_t*)scratch;
  float query_scales[JE_QUERIES] = {0}, *value_scales = scratch + JE_QUERIES * width;
  float* row = value_scales + width;
  je_queries q = {.queries = quantized,
                  .query_scales = query_scales,
                  .value_scales = value_scales,
                  .scores = row + width,
                  .slots = slots,
                  .stride = heads_width,
                  .width = width,
                  .length = length,
                  .exact_slots = SLOTS_AT_ONCE,
                  .most = most_of(SLOTS_AT_ONCE),
                  .y = attention->attended + (size_t)head * width};
  q.keys16 = (int16_t*)(q.scores + JE_QUERIES * slots);
  q.values16 = q.keys16 + slots * width;
  const float key_peak = largest_magnitude(keys, length, width, stride);
  const float value_peak = largest_magnitude(values, length, width, stride);
  lay_out(&q, keys, values, length, stride, most / key_peak, q.most / value_peak, (int16_t*)row);
  for (int e = 0; e < width; e++) value_scales[e] = value_peak / q.most;
  memset(quantized, 0, JE_QUERIES * (size_t)width * sizeof *quantized);
  const float factor = key_peak / most / sqrtf((float)width);
  for (; q.first < length; q.first += JE_QUERIES) {
    const int count = take_queries(&q, quantized, query_scales, queries + q.first * stride, stride, factor);
    attend_many(&q, count);
    q.y += JE_QUERIES * q.stride;
  }
}
