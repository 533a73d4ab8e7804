#include "attention.h"

#include <math.h>
#include <string.h>

#include "rows.h"
#include "vectors.h"

#define QUERIES 12 /* at once: 24 sums, two vectors and a query fill the 32 registers */
#define WIDEST 256 /* of a head */

static size_t padded(size_t length) { return (length + JE_TILE - 1) / JE_TILE * JE_TILE; }

size_t je_attention_bytes(const je_model *model, int time, int longest) {
    const size_t slots = padded((size_t)longest), width = (size_t)model->head_dim;
    const size_t widened = time > 1 ? 2 * slots * width : 0;
    return (QUERIES * (slots + width) + widened) * sizeof(float);
}

/* A head rotated by its position: channel i with channel i + E / 2. */
static void rotate(float *y, const float *x, const je_model *model, int64_t position) {
    const int half = model->head_dim / 2;
    const float *cos = model->cos + position * half, *sin = model->sin + position * half;
    for (int e = 0; e < half; e += 16) {
        const __m512 a = _mm512_loadu_ps(x + e), b = _mm512_loadu_ps(x + half + e);
        const __m512 c = _mm512_loadu_ps(cos + e), s = _mm512_loadu_ps(sin + e);
        _mm512_storeu_ps(y + e, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_storeu_ps(y + half + e, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

static void store(int8_t *levels, const float *x, const float *scales, int width) {
    for (int e = 0; e < width; e += 16) {
        const __m512 scaled = _mm512_div_ps(_mm512_loadu_ps(x + e), _mm512_loadu_ps(scales + e));
        _mm_storeu_si128((__m128i *)(levels + e), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
    }
}

/* A query rotated, in units of its keys' levels and of the softmax. */
static void prepare_query(float *y, const float *x, const je_attention *of, const float *scales,
                          int64_t position) {
    const int width = of->model->head_dim;
    rotate(y, x, of->model, position);
    const __m512 by = _mm512_set1_ps(1 / sqrtf((float)width));
    for (int e = 0; e < width; e += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(y + e), _mm512_loadu_ps(scales + e));
        _mm512_storeu_ps(y + e, _mm512_mul_ps(scaled, by));
    }
}

/* Scores to weights, zeros from `length` to `end`; 1 over their sum. */
static float softmax(float *scores, int length, int end) {
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int i = 0; i < length; i += 16) {
        const __mmask16 mask = je_first(length - i);
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, mask, scores + i));
    }
    const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (int i = 0; i < end; i += 16) {
        const __mmask16 mask = je_first(length - i);
        const __m512 score = _mm512_maskz_loadu_ps(mask, scores + i);
        const __m512 weight = _mm512_maskz_mov_ps(mask, je_exp(_mm512_sub_ps(score, peak)));
        sum = _mm512_add_ps(sum, weight);
        _mm512_storeu_ps(scores + i, weight);
    }
    return 1 / _mm512_reduce_add_ps(sum);
}

JE_INLINE __m512 widened(const int8_t *levels) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)levels)));
}

#define KEYS 4     /* at once, of one query over the cache as it is */
#define LEVEL 32767 /* a query's, and a weight's largest */

/* The sums of four vectors of integers. */
JE_INLINE __m128i sums_of(const __m512i v[KEYS]) {
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    const __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    const __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti32x8_epi32(c, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
}

/* Scores of one query, rounded to 16 bits. */
static void score(float *scores, const float *query, const int8_t *keys, int length, int width) {
    __m512i levels[WIDEST / 32];
    __m512 most = _mm512_set1_ps(1e-30f);
    for (int e = 0; e < width; e += 16)
        most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(query + e)));
    const float peak = _mm512_reduce_max_ps(most);
    const __m512 by = _mm512_set1_ps(LEVEL / peak);
    for (int e = 0; e < width; e += 32) {
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(query + e), by));
        const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(query + e + 16), by));
        levels[e / 32] = _mm512_inserti32x8(_mm512_castsi256_si512(_mm512_cvtsepi32_epi16(a)),
                                            _mm512_cvtsepi32_epi16(b), 1);
    }
    const __m128 worth = _mm_set1_ps(peak / LEVEL);
    for (int slot = 0; slot < length; slot += KEYS) {
        __m512i sums[KEYS];
#pragma GCC unroll 4
        for (int i = 0; i < KEYS; i++) {
            const int8_t *key = keys + (size_t)(slot + i < length ? slot + i : length - 1) * width;
            sums[i] = _mm512_setzero_si512();
            for (int e = 0; e < width; e += 32)
                je_dot_pairs(&sums[i], levels[e / 32],
                             _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(key + e))));
        }
        _mm_storeu_ps(scores + slot, _mm_mul_ps(_mm_cvtepi32_ps(sums_of(sums)), worth));
    }
}

/* Weights to 16 bits: for four slots their four high bytes, then their four low ones. */
static void round_weights(uint32_t (*levels)[2], const float *weights, int end) {
    const __m512 by = _mm512_set1_ps(LEVEL);
    for (int slot = 0; slot < end; slot += 16) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights + slot), by));
        uint32_t high[4], low[4];
        _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32(whole, 8)));
        _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8(whole));
        for (int i = 0; i < 4; i++) {
            levels[slot / 4 + i][0] = high[i];
            levels[slot / 4 + i][1] = low[i];
        }
    }
}

/* Up to 64 channels of the values' weighted sum, as they are and then by their scales. */
JE_INLINE void mix(float *y, const uint32_t (*levels)[2], const int8_t *values, const float *scales, float inverse,
                int length, int width, int channels) {
    const __mmask64 mask = channels < 64 ? (1ull << channels) - 1 : ~0ull;
    __m512i high[4], low[4];
    for (int i = 0; i < 4; i++) high[i] = low[i] = _mm512_setzero_si512();
    for (int slot = 0; slot < length; slot += KEYS) {
        __m512i v[KEYS], four[4];
#pragma GCC unroll 4
        for (int i = 0; i < KEYS; i++) {
            const int at = slot + i < length ? slot + i : length - 1;
            v[i] = _mm512_maskz_loadu_epi8(mask, values + (size_t)at * width);
        }
        const __m512i a = _mm512_unpacklo_epi8(v[0], v[1]), b = _mm512_unpacklo_epi8(v[2], v[3]);
        const __m512i c = _mm512_unpackhi_epi8(v[0], v[1]), d = _mm512_unpackhi_epi8(v[2], v[3]);
        four[0] = _mm512_unpacklo_epi16(a, b);
        four[1] = _mm512_unpackhi_epi16(a, b);
        four[2] = _mm512_unpacklo_epi16(c, d);
        four[3] = _mm512_unpackhi_epi16(c, d);
        const __m512i weight = _mm512_set1_epi32((int)levels[slot / 4][0]);
        const __m512i rest = _mm512_set1_epi32((int)levels[slot / 4][1]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            je_dot(&high[i], weight, four[i]);
            je_dot(&low[i], rest, four[i]);
        }
    }
    /* lane l of sum i: channels 16 l + 4 i to 16 l + 4 i + 3 */
    for (int i = 0; i < 4; i++) {
        float sums[16];
        const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[i]), _mm512_set1_ps(256), /* or overflow */
                                           _mm512_cvtepi32_ps(low[i]));
        _mm512_storeu_ps(sums, _mm512_mul_ps(sum, _mm512_set1_ps(inverse / LEVEL)));
        for (int lane = 0; lane < channels / 16; lane++)
            for (int e = 16 * lane + 4 * i, j = 0; j < 4; j++) y[e + j] = sums[4 * lane + j] * scales[e + j];
    }
}

/* One query over the cache as it is, in integers. scores: room for the padded length, twice. */
static void attend_one(float *y, const float *query, const int8_t *keys, const int8_t *values,
                       const float *value_scales, float *scores, int length, int width) {
    const int end = (int)padded((size_t)length);
    uint32_t(*levels)[2] = (uint32_t(*)[2])(scores + end);
    score(scores, query, keys, length, width);
    const float inverse = softmax(scores, length, end);
    round_weights(levels, scores, end);
    for (int e = 0; e < width; e += 64)
        mix(y + e, (const uint32_t(*)[2])levels, values + e, value_scales + e, inverse, length, width,
            width - e < 64 ? width - e : 64);
}

/* Keys (length, E) as (length / 32, E, 32) float32, values as (length, E), both filled with zeros. */
static void widen(float *wide_keys, float *wide_values, const int8_t *keys, const int8_t *values,
                  int length, int width) {
    const int end = (int)padded((size_t)length);
    for (int slot = 0; slot < end; slot += 16) {
        float *tile = wide_keys + (size_t)(slot / JE_TILE) * JE_TILE * width + slot % JE_TILE;
        for (int e = 0; e < width; e += 16) {
            __m512i part[16];
            for (int i = 0; i < 16; i++) {
                const int8_t *levels = keys + (size_t)(slot + i) * width + e;
                part[i] = slot + i < length
                              ? _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)levels))
                              : _mm512_setzero_si512();
            }
            je_transpose(part);
            for (int i = 0; i < 16; i++)
                _mm512_storeu_ps(tile + (size_t)(e + i) * JE_TILE, _mm512_cvtepi32_ps(part[i]));
        }
    }
    const size_t count = (size_t)length * width;
    for (size_t i = 0; i < count; i += 16) _mm512_storeu_ps(wide_values + i, widened(values + i));
    memset(wide_values + count, 0, ((size_t)end * width - count) * sizeof(float));
}

/* y (count, stride 32 wide) = a (count, inner) times b (inner, 32 wide). */
JE_INLINE void multiply(float *y, size_t y_stride, const float *a, size_t a_stride, const float *b,
                     size_t b_stride, int inner, const int count) {
    __m512 sums[QUERIES][2];
    for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (int k = 0; k < inner; k++) {
        const __m512 left = _mm512_loadu_ps(b + k * b_stride);
        const __m512 right = _mm512_loadu_ps(b + k * b_stride + 16);
        for (int i = 0; i < count; i++) {
            const __m512 x = _mm512_set1_ps(a[i * a_stride + k]);
            sums[i][0] = _mm512_fmadd_ps(x, left, sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(x, right, sums[i][1]);
        }
    }
    for (int i = 0; i < count; i++) {
        _mm512_storeu_ps(y + i * y_stride, sums[i][0]);
        _mm512_storeu_ps(y + i * y_stride + 16, sums[i][1]);
    }
}

typedef struct {
    float *queries, *scores, *keys, *values; /* (12, E), (12, slots), and see widen() */
    size_t slots;
} wide;

/* Queries that may see slots below end and before their own, the first of which is `first`. */
JE_INLINE void attend_tile(const je_attention *of, const wide *at, float *mixed, const float *value_scales,
                        int first, const int count) {
    const int width = of->model->head_dim, end = (int)padded((size_t)(first + count));
    const size_t stride = (size_t)of->model->num_heads * width;
    float inverse[QUERIES];
    for (int slot = 0; slot < end; slot += JE_TILE)
        multiply(at->scores + slot, at->slots, at->queries, width, at->keys + (size_t)slot * width,
                 JE_TILE, width, count);
    for (int i = 0; i < count; i++)
        inverse[i] = softmax(at->scores + i * at->slots, first + i + 1, end);
    for (int e = 0; e < width; e += JE_TILE)
        multiply(mixed + e, stride, at->scores, at->slots, at->values + e, width, end, count);
    for (int i = 0; i < count; i++)
        for (int e = 0; e < width; e += 16) {
            float *y = mixed + i * stride + e;
            const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(inverse[i]), _mm512_loadu_ps(value_scales + e));
            _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_loadu_ps(y), scale));
        }
}

void je_attend(const je_attention *of, int row, int group, float *scratch) {
    const je_model *model = of->model;
    const int width = model->head_dim, shared = model->num_heads / model->num_kv_heads;
    const size_t stride = (size_t)(model->num_heads + 2 * model->num_kv_heads) * width;
    const int length = (int)of->lengths[row], start = length > of->time ? length - of->time : 0;
    const int valid = length - start; /* new positions that are no padding */
    const size_t cache = ((size_t)row * model->num_kv_heads + group) * of->cache_length * width;
    int8_t *keys = of->keys + cache, *values = of->values + cache;
    const float *key_scales = of->layer->key_scales + (size_t)group * width;
    const float *value_scales = of->layer->value_scales + (size_t)group * width;
    const float *x = of->qkv + (size_t)row * of->time * stride;
    const int64_t *positions = of->positions + (size_t)row * of->time;
    float rotated[WIDEST];
    for (int t = 0; t < valid; t++) {
        const float *key = x + t * stride + (size_t)(model->num_heads + group) * width;
        rotate(rotated, key, model, positions[t]);
        store(keys + (size_t)(start + t) * width, rotated, key_scales, width);
        store(values + (size_t)(start + t) * width, key + (size_t)model->num_kv_heads * width,
              value_scales, width);
    }
    wide at = {.queries = scratch, .slots = padded((size_t)length)};
    at.scores = at.queries + QUERIES * width;
    at.keys = at.scores + QUERIES * at.slots;
    at.values = at.keys + at.slots * width;
    if (valid > 1) widen(at.keys, at.values, keys, values, length, width);
    for (int head = group * shared; head < (group + 1) * shared; head++) {
        float *mixed = of->mixed + ((size_t)row * of->time * model->num_heads + head) * width;
        const size_t step = (size_t)model->num_heads * width;
        for (int t = 0; t < valid; t += QUERIES) {
            const int count = valid - t < QUERIES ? valid - t : QUERIES;
            for (int i = 0; i < count; i++)
                prepare_query(at.queries + (size_t)i * width, x + (t + i) * stride + (size_t)head * width, of,
                              key_scales, positions[t + i]);
            float *y = mixed + t * step;
            if (valid == 1)
                attend_one(y, at.queries, keys, values, value_scales, at.scores, length, width);
            else if (count == QUERIES)
                attend_tile(of, &at, y, value_scales, start + t, QUERIES);
            else
                for (int i = 0; i < count; i++) {
                    const wide one = {at.queries + (size_t)i * width, at.scores, at.keys, at.values, at.slots};
                    attend_tile(of, &one, y + i * step, value_scales, start + t + i, 1);
                }
        }
    }
}
