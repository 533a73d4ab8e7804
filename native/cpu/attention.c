#include "attention.h"

#include "softmax.h"

#define QUERIES 12 /* at once: 24 sums, two vectors and a query fill the 32 registers */
#define EXACT 512  /* slots whose sums of weights and values stay below 2^31 */

size_t je_attention_bytes(const je_model* model, int time, int longest) {
  const size_t slots = je_padded((size_t)longest), width = (size_t)model->head_dim;
  const size_t widened = time > 1 ? 2 * slots * width * sizeof(int16_t) : 0;
  return QUERIES * (slots + width) * sizeof(float) + widened;
}

/* A head rotated by its position: channel i with channel i + E / 2. */
static void rotate(float* y, const float* x, const je_model* model, int64_t position) {
  const int half = model->head_dim / 2;
  const float *cos = model->cos + position * half, *sin = model->sin + position * half;
  for (int e = 0; e < half; e += 16) {
    const __m512 a = _mm512_loadu_ps(x + e), b = _mm512_loadu_ps(x + half + e);
    const __m512 c = _mm512_loadu_ps(cos + e), s = _mm512_loadu_ps(sin + e);
    _mm512_storeu_ps(y + e, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
    _mm512_storeu_ps(y + half + e, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
  }
}

static void store(int8_t* levels, const float* x, const float* scales, int width) {
  for (int e = 0; e < width; e += 16) {
    const __m512 scaled = _mm512_div_ps(_mm512_loadu_ps(x + e), _mm512_loadu_ps(scales + e));
    _mm_storeu_si128((__m128i*)(levels + e), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
  }
}

/* A query rotated, in units of its keys' levels and of the softmax. */
static void prepare_query(float* y, const float* x, const je_attention* of, const float* scales, int64_t position) {
  const int width = of->model->head_dim;
  rotate(y, x, of->model, position);
  const __m512 by = _mm512_set1_ps(1 / sqrtf((float)width));
  for (int e = 0; e < width; e += 16) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(y + e), _mm512_loadu_ps(scales + e));
    _mm512_storeu_ps(y + e, _mm512_mul_ps(scaled, by));
  }
}

/* Keys (length, E) in 16 bits as (length / 32, E / 2, 32, 2), values as (length / 2, E, 2): pairs of what is summed
 * side by side, filled with zeros. */
static void widen(int32_t* wide_keys, int32_t* wide_values, const int8_t* keys, const int8_t* values, int length,
                  int width) {
  const int end = (int)je_padded((size_t)length);
  for (int slot = 0; slot < end; slot += 16) {
    int32_t* tile = wide_keys + (size_t)(slot / JE_TILE) * JE_TILE * width / 2 + slot % JE_TILE;
    for (int e = 0; e < width; e += 32) {
      __m512i part[16];
      for (int i = 0; i < 16; i++) {
        const int8_t* levels = keys + (size_t)(slot + i) * width + e;
        part[i] = slot + i < length ? _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)levels))
                                    : _mm512_setzero_si512();
      }
      je_transpose(part);
      for (int i = 0; i < 16; i++) _mm512_storeu_si512(tile + (size_t)(e / 2 + i) * JE_TILE, part[i]);
    }
  }
  for (int slot = 0; slot < end; slot += 2)
    for (int e = 0; e < width; e += 16) {
      __m512i pair[2];
      for (int i = 0; i < 2; i++) {
        const __m128i* levels = (const __m128i*)(values + (size_t)(slot + i) * width + e);
        pair[i] = slot + i < length ? _mm512_cvtepi8_epi32(_mm_loadu_si128(levels)) : _mm512_setzero_si512();
      }
      const __m512i low = _mm512_and_si512(pair[0], _mm512_set1_epi32(0xffff));
      _mm512_storeu_si512(wide_values + (size_t)slot / 2 * width + e,
                          _mm512_or_si512(low, _mm512_slli_epi32(pair[1], 16)));
    }
}

/* sums (count, 32) += a (count, pairs, 2) times b (pairs, stride 32 wide, 2). */
JE_INLINE void add_products(__m512i sums[QUERIES][2], const int32_t* a, size_t a_stride, const int32_t* b,
                            size_t b_stride, int pairs, const int count) {
  for (int k = 0; k < pairs; k++) {
    const __m512i left = _mm512_loadu_si512(b + k * b_stride);
    const __m512i right = _mm512_loadu_si512(b + k * b_stride + 16);
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) {
      const __m512i pair = _mm512_set1_epi32(a[i * a_stride + k]);
      je_dot_pairs(&sums[i][0], pair, left);
      je_dot_pairs(&sums[i][1], pair, right);
    }
  }
}

typedef struct {
  const int32_t *queries, *keys, *values; /* (12, E / 2) with stride E, and see widen() */
  float* scores;                          /* (12, slots) */
  const float* worth;                     /* a query's level */
  size_t slots;
} wide;

/* Queries that may see slots below end and before their own, the first of which is `first`. */
JE_INLINE void attend_tile(const je_attention* of, const wide* at, float* mixed, const float* value_scales, int first,
                           const int count) {
  const int width = of->model->head_dim, end = (int)je_padded((size_t)(first + count));
  const size_t stride = (size_t)of->model->num_heads * width;
  float inverse[QUERIES];
  for (int slot = 0; slot < end; slot += JE_TILE) {
    __m512i sums[QUERIES][2];
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
    add_products(sums, at->queries, width, at->keys + (size_t)slot * width / 2, JE_TILE, width / 2, count);
#pragma GCC unroll 12
    for (int i = 0; i < count; i++)
      for (int half = 0; half < 2; half++)
        _mm512_storeu_ps(at->scores + i * at->slots + slot + 16 * half,
                         _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][half]), _mm512_set1_ps(at->worth[i])));
  }
  for (int i = 0; i < count; i++) {
    float* weights = at->scores + i * at->slots;
    inverse[i] = je_softmax(weights, first + i + 1, end) / LEVEL;
    for (int slot = 0; slot < end; slot += 16) { /* to 16 bits, over themselves */
      const __m512i levels = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights + slot), _mm512_set1_ps(LEVEL)));
      _mm256_storeu_si256((__m256i*)((int16_t*)weights + slot), _mm512_cvtepi32_epi16(levels));
    }
  }
  for (int e = 0; e < width; e += JE_TILE) {
    float found[QUERIES][JE_TILE] = {{0}};
    for (int slot = 0; slot < end; slot += EXACT) {
      const int pairs = (end - slot < EXACT ? end - slot : EXACT) / 2;
      __m512i sums[QUERIES][2];
#pragma GCC unroll 12
      for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
      add_products(sums, (const int32_t*)at->scores + slot / 2, at->slots, at->values + (size_t)slot / 2 * width + e,
                   width, pairs, count);
#pragma GCC unroll 12
      for (int i = 0; i < count; i++)
        for (int half = 0; half < 2; half++) {
          float* sum = found[i] + 16 * half;
          _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), _mm512_cvtepi32_ps(sums[i][half])));
        }
    }
    for (int i = 0; i < count; i++)
      for (int half = 0; half < JE_TILE; half += 16) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(inverse[i]), _mm512_loadu_ps(value_scales + e + half));
        _mm512_storeu_ps(mixed + i * stride + e + half, _mm512_mul_ps(_mm512_loadu_ps(found[i] + half), scale));
      }
  }
}

void je_attend(const je_attention* of, int row, int group, float* scratch) {
  const je_model* model = of->model;
  const int width = model->head_dim, shared = model->num_heads / model->num_kv_heads;
  const size_t stride = (size_t)(model->num_heads + 2 * model->num_kv_heads) * width;
  const int length = (int)of->lengths[row], start = length > of->time ? length - of->time : 0;
  const int valid = length - start; /* new positions that are no padding */
  const size_t cache = ((size_t)row * model->num_kv_heads + group) * of->cache_length * width;
  int8_t *keys = of->keys + cache, *values = of->values + cache;
  const float* key_scales = of->layer->key_scales + (size_t)group * width;
  const float* value_scales = of->layer->value_scales + (size_t)group * width;
  const float* x = of->qkv + (size_t)row * of->time * stride;
  const int64_t* positions = of->positions + (size_t)row * of->time;
  float rotated[WIDEST];
  for (int t = 0; t < valid; t++) {
    const float* key = x + t * stride + (size_t)(model->num_heads + group) * width;
    rotate(rotated, key, model, positions[t]);
    store(keys + (size_t)(start + t) * width, rotated, key_scales, width);
    store(values + (size_t)(start + t) * width, key + (size_t)model->num_kv_heads * width, value_scales, width);
  }
  const size_t slots = je_padded((size_t)length);
  float *queries = scratch, *scores = queries + QUERIES * width, worth[QUERIES];
  int32_t *wide_keys = (int32_t*)(scores + QUERIES * slots), *wide_values = wide_keys + slots * width / 2;
  if (valid > 1) widen(wide_keys, wide_values, keys, values, length, width);
  for (int head = group * shared; head < (group + 1) * shared; head++) {
    float* mixed = of->mixed + ((size_t)row * of->time * model->num_heads + head) * width;
    const size_t step = (size_t)model->num_heads * width;
    for (int t = 0; t < valid; t += QUERIES) {
      const int count = valid - t < QUERIES ? valid - t : QUERIES;
      for (int i = 0; i < count; i++) {
        float* query = queries + (size_t)i * width;
        prepare_query(query, x + (t + i) * stride + (size_t)head * width, of, key_scales, positions[t + i]);
        if (valid > 1) worth[i] = je_round_query(query, width);
      }
      float* y = mixed + t * step;
      if (valid == 1) je_attend_one(y, queries, keys, values, value_scales, scores, length, width);
      for (int i = 0; valid > 1 && i < count; i += count == QUERIES ? QUERIES : 1) {
        const wide at = {
            (const int32_t*)(queries + (size_t)i * width), wide_keys, wide_values, scores, worth + i, slots};
        if (count == QUERIES)
          attend_tile(of, &at, y, value_scales, start + t, QUERIES);
        else
          attend_tile(of, &at, y + i * step, value_scales, start + t + i, 1);
      }
    }
  }
}
