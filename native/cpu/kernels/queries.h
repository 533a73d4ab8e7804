/* Queries of attention: their quantization, softmax, and what they attend to.
 *
 * Products are summed in integers, exactly: queries and attention weights have 16 bits. So the order of those sums is
 * free, and a query's result does not depend on how many queries are computed together. */

#define QUANTIZED_MAX 32767 /* of queries and attention weights, in 16 bits */
#define EXACT_SLOTS 512     /* up to this many slots, a sum of weight * value stays below 2^31 */

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
  const int8_t* next_keys; /* of the head that the same thread most likely takes next, or NULL */
} je_queries;

/* Write 16 channels from e on of query i. */
JE_INLINE void write_channels(const je_queries* q, int i, int e, je_floats sum, float factor) {
  f_store(q->y + i * q->stride + e, f_mul(sum, f_mul(f_all(factor), f_load(q->value_scales + e))));
}
