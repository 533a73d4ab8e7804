#include "product.h"

#include <math.h>

#include "vectors.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 12 /* at once of many: 24 sums, the weights and a row fill the 32 registers */
#define SOON 128 /* rows, before whose end the next panel's weights would be gone from the cache again */
#define GROUP 4 /* at once of few, and */
#define OUTPUTS 4
#define AHEAD 16384 /* bytes of weights asked for before they are needed: into the second cache, as the first
                       waits for too few at once (docs/decoder.md) */

INLINE void finish_at(float *y, __m512 p, __mmask16 mask, je_finish finish) {
    if (finish == JE_ADD) p = _mm512_add_ps(p, _mm512_maskz_loadu_ps(mask, y));
    if (finish == JE_GATE) p = _mm512_mul_ps(je_silu(p), _mm512_maskz_loadu_ps(mask, y));
    _mm512_mask_storeu_ps(y, mask, p);
}

static const uint8_t *levels_of(je_part part, size_t bytes) {
    return part.matrix->levels + part.first * bytes;
}

/* Of outputs of so many bytes: a whole number of groups of them. */
INLINE size_t ahead(size_t bytes) { return (AHEAD / (OUTPUTS * bytes) + 1) * OUTPUTS * bytes; }

/* The sums of four vectors. */
INLINE __m128 sums_of(const __m512 v[OUTPUTS]) {
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512 c = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    const __m256 d = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
    return _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
}

/* Four outputs of `count` rows from `row` on: levels of 4 bits times levels of 8, a block at a time.
 * levels, scales: of the first output, the others behind it. end, next: of this part's weights, and where
 * those of the next begin. */
INLINE void dot(float *y, const uint8_t *levels, const float *scales, const je_rows *rows, int row,
                const uint8_t *end, const uint8_t *next, const int count) {
    const __m512i low = _mm512_set1_epi8(15);
    const size_t blocks = (size_t)rows->blocks, first = row * blocks;
    const size_t distance = ahead(blocks * (JE_BLOCK / 2));
    const uint8_t *x = rows->levels + first * JE_BLOCK;
    __m512 sums[GROUP][OUTPUTS];
    float worth[GROUP][OUTPUTS][16];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTPUTS; o++) sums[i][o] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++, levels += JE_BLOCK / 2, x += JE_BLOCK) {
        if (b % 16 == 0) {
            const __mmask16 mask = je_first((int)(blocks - b));
#pragma GCC unroll 4
            for (int i = 0; i < count; i++)
#pragma GCC unroll 4
                for (int o = 0; o < OUTPUTS; o++) {
                    const size_t at = first + i * blocks + b;
                    const __m512 scale = _mm512_maskz_loadu_ps(mask, scales + o * blocks + b);
                    const __m512 of_row = _mm512_maskz_loadu_ps(mask, rows->scales + at);
                    const __m512 offset = _mm512_maskz_loadu_ps(mask, rows->offsets + at);
                    _mm512_storeu_ps(worth[i][o], _mm512_mul_ps(scale, of_row));
                    sums[i][o] = _mm512_fnmadd_ps(scale, offset, sums[i][o]);
                }
        }
#pragma GCC unroll 4
        for (int o = 0; o < OUTPUTS; o++) {
            const uint8_t *at = levels + o * blocks * (JE_BLOCK / 2);
            const __m512i both = _mm512_loadu_si512(at);
            const uint8_t *later = at + distance < end ? at + distance : next + (at + distance - end);
            _mm_prefetch((const char *)later, _MM_HINT_T1);
            const __m512i even = _mm512_and_si512(both, low);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 4
            for (int i = 0; i < count; i++) {
                const uint8_t *part = x + i * blocks * JE_BLOCK;
                __m512i sum = _mm512_setzero_si512();
                je_dot(&sum, even, _mm512_loadu_si512(part));
                je_dot(&sum, odd, _mm512_loadu_si512(part + 64));
                const __m512 scale = _mm512_set1_ps(worth[i][o][b % 16]);
                sums[i][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[i][o]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) _mm_storeu_ps(y + (row + i) * JE_TILE, sums_of(sums[i]));
}

static void few_rows(je_part part, je_part next, const je_rows *rows, float *y, size_t stride,
                     je_finish finish) {
    const size_t blocks = (size_t)rows->blocks, bytes = blocks * (JE_BLOCK / 2);
    const uint8_t *start = levels_of(part, bytes), *end = start + part.outputs * bytes;
    const uint8_t *after = next.outputs ? levels_of(next, bytes) : start; /* which is there already */
    for (int tile = 0; tile < part.outputs; tile += JE_TILE) {
        const int width = part.outputs - tile < JE_TILE ? part.outputs - tile : JE_TILE;
        float found[JE_FEW * JE_TILE];
        for (int o = 0; o < width; o += OUTPUTS) {
            const uint8_t *levels = start + (tile + o) * bytes;
            const float *scales = part.matrix->scales + (size_t)(part.first + tile + o) * blocks;
            int row = 0;
            for (; row + 4 <= rows->count; row += 4)
                dot(found + o, levels, scales, rows, row, end, after, 4);
            for (; row + 2 <= rows->count; row += 2)
                dot(found + o, levels, scales, rows, row, end, after, 2);
            if (row < rows->count) dot(found + o, levels, scales, rows, row, end, after, 1);
        }
        for (int row = 0; row < rows->count; row++)
            for (int o = 0; o < width; o += 16)
                finish_at(y + row * stride + tile + o, _mm512_loadu_ps(found + row * JE_TILE + o),
                          je_first(width - o), finish);
    }
}

void je_prefetch(je_part part, const je_rows *rows) {
    const size_t bytes = (size_t)rows->blocks * (JE_BLOCK / 2);
    const uint8_t *start = levels_of(part, bytes), *end = start + part.outputs * bytes;
    if (rows->count <= JE_FEW)
        for (const uint8_t *at = start; at < start + ahead(bytes) && at < end; at += 64)
            _mm_prefetch((const char *)at, _MM_HINT_T1);
}

/* 16 outputs of a panel as signed 8-bit levels (inputs / 4, 2, 16, 4), of which these are one half; a
 * level's worth of each, and 128 times the sum of its levels. An output's blocks come to one scale: that of
 * the largest, whose level -8 is 127 or -127. Where there are fewer outputs, the others are zeros. later: as
 * many weights to ask for on the way. */
static void widen(int8_t *half, const je_matrix *matrix, int blocks, int first, int outputs, float *worth,
                  int32_t *offsets, const uint8_t *later) {
    const __m512i low = _mm512_set1_epi8(15), ones = _mm512_set1_epi8(1);
    const __m512 steps = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                       _mm512_setzero_si512()};
    float inverse[16];
    const float *scales[16];
    const uint8_t *levels[16];
    for (int o = 0; o < 16; o++) {
        const size_t output = (size_t)(first + (o < outputs ? o : 0));
        scales[o] = matrix->scales + output * blocks;
        levels[o] = matrix->levels + output * blocks * (JE_BLOCK / 2);
        __m512 most = _mm512_set1_ps(1e-30f);
        for (int b = 0; b < blocks; b += 16)
            most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(je_first(blocks - b), scales[o] + b)));
        worth[o] = _mm512_reduce_max_ps(most) * 8 / 127;
        inverse[o] = o < outputs ? 1 / worth[o] : 0;
    }
    for (int b = 0; b < blocks; b++, half += 32 * 128) {
        __m512i even[16], odd[16];
        for (int o = 0; o < 16; o++, later += JE_BLOCK / 2) _mm_prefetch((const char *)later, _MM_HINT_T1);
#pragma GCC unroll 16
        for (int o = 0; o < 16; o++) {
            const __m512 by = _mm512_set1_ps(scales[o][b] * inverse[o]);
            const __m128i table = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(steps, by)));
            const __m512i tables = _mm512_broadcast_i32x4(table);
            const __m512i both = _mm512_loadu_si512(levels[o] + b * (JE_BLOCK / 2));
            even[o] = _mm512_shuffle_epi8(tables, _mm512_and_si512(both, low));
            odd[o] = _mm512_shuffle_epi8(tables, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
        }
        je_transpose(even);
        je_transpose(odd);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            je_dot(&sums[i % 2], ones, even[i]);
            je_dot(&sums[2 + i % 2], ones, odd[i]);
            _mm512_store_si512(half + i * 128, even[i]);
            _mm512_store_si512(half + (16 + i) * 128, odd[i]);
        }
    }
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
    _mm512_storeu_si512(offsets, _mm512_slli_epi32(sum, 7));
}

typedef struct {
    const int8_t *weights;
    float worth[JE_TILE];
    int32_t offsets[JE_TILE];
    int outputs;
} panel_of;

INLINE void finish_half(const panel_of *panel, const __m512i *sums, const je_rows *rows, int row, float *y,
                        size_t stride, je_finish finish, const int half, const int count) {
    const __m512i offset = _mm512_loadu_si512(panel->offsets + 16 * half);
    const __m512 worth = _mm512_loadu_ps(panel->worth + 16 * half);
    const __mmask16 mask = je_first(panel->outputs - 16 * half);
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) {
        const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[i], offset));
        const __m512 scale = _mm512_mul_ps(worth, _mm512_set1_ps(rows->scales[row + i]));
        finish_at(y + (row + i) * stride + 16 * half, _mm512_mul_ps(exact, scale), mask, finish);
    }
}

/* Rows from `row` on times a panel. Unrolled by order, or the sums would lie in memory. */
INLINE void multiply(const panel_of *panel, const je_rows *rows, int row, float *y, size_t stride,
                     je_finish finish, const int count) {
    const size_t inputs = (size_t)rows->blocks * JE_BLOCK;
    const uint8_t *x = rows->levels + row * inputs;
    __m512i left[ROWS], right[ROWS];
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) left[i] = right[i] = _mm512_setzero_si512();
    for (size_t k = 0; k < inputs; k += 4) {
        const __m512i a = _mm512_load_si512(panel->weights + k * JE_TILE);
        const __m512i b = _mm512_load_si512(panel->weights + k * JE_TILE + 64);
#pragma GCC unroll 12
        for (int i = 0; i < count; i++) {
            const __m512i four = _mm512_set1_epi32(*(const int32_t *)(x + i * inputs + k));
            je_dot(&left[i], four, a);
            je_dot(&right[i], four, b);
        }
    }
    finish_half(panel, left, rows, row, y, stride, finish, 0, count);
    finish_half(panel, right, rows, row, y, stride, finish, 1, count);
}

static void many_rows(je_part part, je_part next, const je_rows *rows, float *y, size_t stride,
                      je_finish finish, int8_t *weights) {
    const size_t bytes = (size_t)rows->blocks * (JE_BLOCK / 2);
    panel_of panel = {.weights = weights, .outputs = part.outputs};
    for (int half = 0; half < 2; half++) {
        const int first = part.first + 16 * half;
        const int soon = next.outputs && rows->count < SOON;
        const uint8_t *later = levels_of(half && soon ? next : part, bytes);
        if (!half && part.outputs > 16) later += 16 * bytes;
        widen(weights + 64 * half, part.matrix, rows->blocks, first, part.outputs - 16 * half,
              panel.worth + 16 * half, panel.offsets + 16 * half, later);
    }
    int row = 0, left;
    for (; (left = rows->count - row) >= 24 || left == 12; row += 12) /* 13 would leave one alone */
        multiply(&panel, rows, row, y, stride, finish, 12);
    for (; row + 8 <= rows->count; row += 8) multiply(&panel, rows, row, y, stride, finish, 8);
    for (; row + 4 <= rows->count; row += 4) multiply(&panel, rows, row, y, stride, finish, 4);
    for (; row < rows->count; row++) multiply(&panel, rows, row, y, stride, finish, 1);
}

void je_product(je_part part, je_part next, const je_rows *rows, float *y, size_t stride, je_finish finish,
                int8_t *panel) {
    if (rows->count <= JE_FEW)
        few_rows(part, next, rows, y, stride, finish);
    else
        many_rows(part, next, rows, y, stride, finish, panel);
}

size_t je_panel_bytes(int inputs) {
    return (size_t)(inputs + JE_BLOCK - 1) / JE_BLOCK * JE_BLOCK * JE_TILE;
}
