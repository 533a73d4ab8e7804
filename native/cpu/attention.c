#include "attention.h"

#include "softmax.h"

#define QUERIES 12          /* computed together: 24 sums, two vectors and a query fill the 32 registers */
#define MAX_EXACT_SLOTS 512 /* up to this many slots, a sum of weight * value stays below 2^31 */

size_t je_attention_bytes(const je_model* model, int time, int longest) {
  const size_t slots = je_padded((size_t)longest), width = (size_t)model->head_dim;
  const size_t widened_bytes = time > 1 ? 2 * slots * width * sizeof(int16_t) : 0;
  return QUERIES * (slots + width) * sizeof(float) + widened_bytes;
}

/* Rotate a head by its position (RoPE): channel i with channel i + E / 2. */
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

/* Quantize a key or value to 8 bits with the scales of its channels. */
static void store(int8_t* quantized, const float* x, const float* scales, int width) {
  for (int e = 0; e < width; e += 16) {
    const __m512 scaled = _mm512_div_ps(_mm512_loadu_ps(x + e), _mm512_loadu_ps(scales + e));
    _mm_storeu_si128((__m128i*)(quantized + e), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
  }
}

/* Rotate a query, and multiply it by the keys' scales and by 1 / sqrt(E). */
static void prepare_query(float* y, const float* x, const je_attention* attention, const float* scales,
                          int64_t position) {
  const int width = attention->model->head_dim;
  rotate(y, x, attention->model, position);
  const __m512 factor = _mm512_set1_ps(1 / sqrtf((float)width));
  for (int e = 0; e < width; e += 16) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(y + e), _mm512_loadu_ps(scales + e));
    _mm512_storeu_ps(y + e, _mm512_mul_ps(scaled, factor));
  }
}

/* Widen keys and values (length, E) to 16 bits. Keys become (length / 32, E / 2, 32, 2), values (length / 2, E, 2):
 * numbers that je_dot_pairs adds lie in pairs. The last tile is filled with zeros. */
static void widen(int32_t* keys16, int32_t* values16, const int8_t* keys, const int8_t* values, int length, int width) {
  const int end = (int)je_padded((size_t)length);
  for (int slot = 0; slot < end; slot += 16) {
    int32_t* tile = keys16 + (size_t)(slot / JE_TILE) * JE_TILE * width / 2 + slot % JE_TILE;
    for (int e = 0; e < width; e += 32) {
      __m512i part[16];
      for (int i = 0; i < 16; i++) {
        const int8_t* quantized = keys + (size_t)(slot + i) * width + e;
        part[i] = slot + i < length ? _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)quantized))
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
        const __m128i* quantized = (const __m128i*)(values + (size_t)(slot + i) * width + e);
        pair[i] = slot + i < length ? _mm512_cvtepi8_epi32(_mm_loadu_si128(quantized)) : _mm512_setzero_si512();
      }
      const __m512i low = _mm512_and_si512(pair[0], _mm512_set1_epi32(0xffff));
      _mm512_storeu_si512(values16 + (size_t)slot / 2 * width + e,
                          _mm512_or_si512(low, _mm512_slli_epi32(pair[1], 16)));
    }
}

/* sums (count, 32) += a (count, pairs, 2) times b (pairs, 32, 2). a_stride, b_stride: pairs from one row to the next.
 */
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

/* What attend_tile reads of up to QUERIES queries of one head. queries: (QUERIES, E / 2) with stride E. keys, values:
 * as widen() makes them. */
typedef struct {
  const int32_t *queries, *keys, *values;
  float* scores;             /* (QUERIES, slots) */
  const float* query_scales; /* (QUERIES): the scale of each query */
  size_t slots;
} query_tile;

/* Causal attention of `count` queries. first: the slot of the first query. Each query sees the slots up to its own;
 * later ones are not computed, except those that fill the last tile. */
JE_INLINE void attend_tile(const je_attention* attention, const query_tile* tile, float* attended,
                           const float* value_scales, int first, const int count) {
  const int width = attention->model->head_dim, end = (int)je_padded((size_t)(first + count));
  const size_t stride = (size_t)attention->model->num_heads * width;
  float inverse[QUERIES];
  for (int slot = 0; slot < end; slot += JE_TILE) {
    __m512i sums[QUERIES][2];
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
    add_products(sums, tile->queries, width, tile->keys + (size_t)slot * width / 2, JE_TILE, width / 2, count);
#pragma GCC unroll 12
    for (int i = 0; i < count; i++)
      for (int half = 0; half < 2; half++)
        _mm512_storeu_ps(tile->scores + i * tile->slots + slot + 16 * half,
                         _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][half]), _mm512_set1_ps(tile->query_scales[i])));
  }
  for (int i = 0; i < count; i++) {
    float* weights = tile->scores + i * tile->slots;
    inverse[i] = je_softmax(weights, first + i + 1, end) / QUANTIZED_MAX;
    for (int slot = 0; slot < end; slot += 16) { /* quantize to 16 bits, in place */
      const __m512i quantized =
          _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights + slot), _mm512_set1_ps(QUANTIZED_MAX)));
      _mm256_storeu_si256((__m256i*)((int16_t*)weights + slot), _mm512_cvtepi32_epi16(quantized));
    }
  }
  for (int e = 0; e < width; e += JE_TILE) {
    float result[QUERIES][JE_TILE] = {{0}};
    for (int slot = 0; slot < end; slot += MAX_EXACT_SLOTS) {
      const int pairs = (end - slot < MAX_EXACT_SLOTS ? end - slot : MAX_EXACT_SLOTS) / 2;
      __m512i sums[QUERIES][2];
#pragma GCC unroll 12
      for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
      add_products(sums, (const int32_t*)tile->scores + slot / 2, tile->slots,
                   tile->values + (size_t)slot / 2 * width + e, width, pairs, count);
#pragma GCC unroll 12
      for (int i = 0; i < count; i++)
        for (int half = 0; half < 2; half++) {
          float* sum = result[i] + 16 * half;
          _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), _mm512_cvtepi32_ps(sums[i][half])));
        }
    }
    for (int i = 0; i < count; i++)
      for (int half = 0; half < JE_TILE; half += 16) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(inverse[i]), _mm512_loadu_ps(value_scales + e + half));
        _mm512_storeu_ps(attended + i * stride + e + half, _mm512_mul_ps(_mm512_loadu_ps(result[i] + half), scale));
      }
  }
}

void je_attend(const je_attention* attention, int row, int group, float* scratch) {
  const je_model* model = attention->model;
  const int width = model->head_dim, heads_per_group = model->num_heads / model->num_kv_heads;
  const size_t stride = (size_t)(model->num_heads + 2 * model->num_kv_heads) * width;
  const int length = (int)attention->lengths[row], start = length > attention->time ? length - attention->time : 0;
  const int valid = length - start; /* new positions without padding */
  const size_t cache = ((size_t)row * model->num_kv_heads + group) * attention->cache_length * width;
  int8_t *keys = attention->keys + cache, *values = attention->values + cache;
  const float* key_scales = attention->layer->key_scales + (size_t)group * width;
  const float* value_scales = attention->layer->value_scales + (size_t)group * width;
  const float* x = attention->qkv + (size_t)row * attention->time * stride;
  const int64_t* positions = attention->positions + (size_t)row * attention->time;
  float rotated[MAX_HEAD_DIM];
  for (int t = 0; t < valid; t++) {
    const float* key = x + t * stride + (size_t)(model->num_heads + group) * width;
    rotate(rotated, key, model, positions[t]);
    store(keys + (size_t)(start + t) * width, rotated, key_scales, width);
    store(values + (size_t)(start + t) * width, key + (size_t)model->num_kv_heads * width, value_scales, width);
  }
  const size_t slots = je_padded((size_t)length);
  float *queries = scratch, *scores = queries + QUERIES * width, query_scales[QUERIES];
  int32_t *keys16 = (int32_t*)(scores + QUERIES * slots), *values16 = keys16 + slots * width / 2;
  if (valid > 1) widen(keys16, values16, keys, values, length, width);
  for (int head = group * heads_per_group; head < (group + 1) * heads_per_group; head++) {
    float* attended = attention->attended + ((size_t)row * attention->time * model->num_heads + head) * width;
    const size_t step = (size_t)model->num_heads * width;
    for (int t = 0; t < valid; t += QUERIES) {
      const int count = valid - t < QUERIES ? valid - t : QUERIES;
      for (int i = 0; i < count; i++) {
        float* query = queries + (size_t)i * width;
        prepare_query(query, x + (t + i) * stride + (size_t)head * width, attention, key_scales, positions[t + i]);
        if (valid > 1) query_scales[i] = je_quantize_query(query, width);
      }
      float* y = attended + t * step;
      if (valid == 1) je_attend_one(y, queries, keys, values, value_scales, scores, length, width);
      for (int i = 0; valid > 1 && i < count; i += count == QUERIES ? QUERIES : 1) {
        const query_tile tile = {
            (const int32_t*)(queries + (size_t)i * width), keys16, values16, scores, query_scales + i, slots};
        if (count == QUERIES)
          attend_tile(attention, &tile, y, value_scales, start + t, QUERIES);
        else
          attend_tile(attention, &tile, y + i * step, value_scales, start + t + i, 1);
      }
    }
  }
}
