#include "matmul.h"

#include <math.h>

#include "vectors.h"

#define ROWS 12  /* at once of many: 24 sums, the weights and a row fill the 32 registers */
#define SOON 128 /* rows, before whose end the next panel's weights would be gone from the cache again */
#define GROUP 4  /* at once of few, and */
#define OUTPUTS 4

JE_INLINE void apply(float* y, __m512 p, __mmask16 mask, je_epilogue epilogue) {
  if (epilogue == JE_ADD) p = _mm512_add_ps(p, _mm512_maskz_loadu_ps(mask, y));
  if (epilogue == JE_GATE) p = _mm512_mul_ps(je_silu(p), _mm512_maskz_loadu_ps(mask, y));
  _mm512_mask_storeu_ps(y, mask, p);
}

static size_t bytes_of(je_part part) { /* an output's */
  return (size_t)(part.matrix->inputs + JE_BLOCK - 1) / JE_BLOCK * (JE_BLOCK / 2);
}

static const uint8_t* levels_of(je_part part) { return part.matrix->levels + part.first * bytes_of(part); }

/* In outputs of so many bytes: a whole number of groups of them. */
JE_INLINE size_t ahead(size_t bytes) { return (JE_AHEAD / (OUTPUTS * bytes) + 1) * OUTPUTS; }

/* Four outputs of `count` rows from `row` on: levels of 4 bits times levels of 8, a block at a time.
 * levels, scales: of the first output, the others behind it. end, next: of this part's weights, and where
 * those of the next begin. */
JE_INLINE void dot(float* y, const uint8_t* levels, const float* scales, const je_rows* rows, int row,
                   const uint8_t* end, const uint8_t* next, const int count) {
  const __m512i low = _mm512_set1_epi8(15);
  const size_t blocks = (size_t)rows->blocks, first = row * blocks;
  const size_t bytes = blocks * (JE_BLOCK / 2), distance = ahead(bytes) * bytes;
  const int8_t* x = rows->levels + first * JE_BLOCK;
  __m512 sums[GROUP][OUTPUTS];
  float worth[GROUP][OUTPUTS][16];
#pragma GCC unroll 4
  for (int i = 0; i < count; i++)
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS; o++) sums[i][o] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; b++, levels += JE_BLOCK / 2, x += JE_BLOCK) {
    if (b % 16 == 0) {
      const __mmask16 mask = je_first((int)(blocks - b));
      for (int o = 0; o < OUTPUTS; o++)
        _mm_prefetch((const char*)(scales + (ahead(bytes) + o) * blocks + b), _MM_HINT_T1);
#pragma GCC unroll 4
      for (int i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTPUTS; o++) {
          const size_t at = first + i * blocks + b;
          const __m512 scale = _mm512_maskz_loadu_ps(mask, scales + o * blocks + b);
          const __m512 of_row = _mm512_maskz_loadu_ps(mask, rows->scales + at);
          const __m512i zero = _mm512_maskz_loadu_epi32(mask, rows->zeros + at);
          const __m512 both = _mm512_mul_ps(scale, of_row);
          _mm512_storeu_ps(worth[i][o], both);
          sums[i][o] = _mm512_fmadd_ps(both, _mm512_cvtepi32_ps(zero), sums[i][o]);
        }
    }
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS; o++) {
      const uint8_t* at = levels + o * bytes;
      const __m512i both = _mm512_loadu_si512(at);
      const uint8_t* later = at + distance < end ? at + distance : next + (at + distance - end);
      _mm_prefetch((const char*)later, _MM_HINT_T1);
      const __m512i even = _mm512_and_si512(both, low);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 4
      for (int i = 0; i < count; i++) {
        const int8_t* part = x + i * blocks * JE_BLOCK;
        __m512i sum = _mm512_setzero_si512();
        je_dot(&sum, even, _mm512_loadu_si512(part));
        je_dot(&sum, odd, _mm512_loadu_si512(part + 64));
        const __m512 scale = _mm512_set1_ps(worth[i][o][b % 16]);
        sums[i][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[i][o]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < count; i++) _mm_storeu_ps(y + (row + i) * JE_TILE, je_sums_of(sums[i]));
}

static void few_rows(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue) {
  const size_t blocks = (size_t)rows->blocks, bytes = bytes_of(part);
  const uint8_t *start = levels_of(part), *end = start + part.outputs * bytes;
  const uint8_t* after = next.outputs ? levels_of(next) : start; /* which is there already */
  for (int tile = 0; tile < part.outputs; tile += JE_TILE) {
    const int width = part.outputs - tile < JE_TILE ? part.outputs - tile : JE_TILE;
    float found[JE_FEW * JE_TILE];
    for (int o = 0; o < width; o += OUTPUTS) {
      const uint8_t* levels = start + (tile + o) * bytes;
      const float* scales = part.matrix->scales + (size_t)(part.first + tile + o) * blocks;
      int row = 0;
      for (; row + 4 <= rows->count; row += 4) dot(found + o, levels, scales, rows, row, end, after, 4);
      for (; row + 2 <= rows->count; row += 2) dot(found + o, levels, scales, rows, row, end, after, 2);
      if (row < rows->count) dot(found + o, levels, scales, rows, row, end, after, 1);
    }
    for (int row = 0; row < rows->count; row++)
      for (int o = 0; o < width; o += 16)
        apply(y + row * stride + tile + o, _mm512_loadu_ps(found + row * JE_TILE + o), je_first(width - o), epilogue);
  }
}

void je_prefetch(je_part part, const je_rows* rows) {
  const size_t bytes = bytes_of(part);
  const uint8_t *start = levels_of(part), *end = start + part.outputs * bytes;
  if (rows->count <= JE_FEW)
    for (const uint8_t* at = start; at < start + ahead(bytes) * bytes && at < end; at += 64)
      _mm_prefetch((const char*)at, _MM_HINT_T1);
}

/* 16 outputs of a panel, a byte a level (inputs / 4, 2, 16, 4), of which these are one half, and their scales
 * (blocks, 2, 16). Where there are fewer outputs, the others are the first again, with scales of zero. later:
 * as many weights to ask for on the way. */
static void widen(uint8_t* half, float* half_scales, const je_matrix* matrix, int blocks, int first, int outputs,
                  const uint8_t* later) {
  const __m512i low = _mm512_set1_epi8(15);
  const float* scales[16];
  const uint8_t* levels[16];
  for (int o = 0; o < 16; o++) {
    const size_t output = (size_t)(first + (o < outputs ? o : 0));
    scales[o] = matrix->scales + output * blocks;
    levels[o] = matrix->levels + output * blocks * (JE_BLOCK / 2);
  }
  for (int b = 0; b < blocks; b++, half += JE_TILE * JE_BLOCK, half_scales += JE_TILE) {
    __m512i both[16];
    for (int o = 0; o < 16; o++, later += JE_BLOCK / 2) _mm_prefetch((const char*)later, _MM_HINT_T1);
#pragma GCC unroll 16
    for (int o = 0; o < 16; o++) {
      both[o] = _mm512_loadu_si512(levels[o] + b * (JE_BLOCK / 2));
      half_scales[o] = o < outputs ? scales[o][b] : 0;
    }
    je_transpose(both);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      _mm512_store_si512(half + i * 128, _mm512_and_si512(both[i], low));
      _mm512_store_si512(half + (16 + i) * 128, _mm512_and_si512(_mm512_srli_epi16(both[i], 4), low));
    }
  }
}

/* Rows from `row` on times a panel, a block at a time. Unrolled by order, or the sums would lie in memory. */
JE_INLINE void multiply(const uint8_t* panel, const float* scales, const je_rows* rows, int row, float* y,
                        size_t stride, int outputs, je_epilogue epilogue, const int count) {
  const size_t blocks = (size_t)rows->blocks, inputs = blocks * JE_BLOCK;
  const int8_t* x = rows->levels + row * inputs;
  __m512 found[ROWS][2];
  for (int i = 0; i < count; i++) found[i][0] = found[i][1] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; b++, scales += JE_TILE) {
    const size_t first = b * rows->count + row;
    __m512i left[ROWS], right[ROWS];
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) left[i] = right[i] = _mm512_set1_epi32(rows->zeros[first + i]);
#pragma GCC unroll 4
    for (size_t k = b * JE_BLOCK; k < (b + 1) * JE_BLOCK; k += 4) {
      const __m512i here = _mm512_load_si512(panel + k * JE_TILE);
      const __m512i there = _mm512_load_si512(panel + k * JE_TILE + 64);
#pragma GCC unroll 12
      for (int i = 0; i < count; i++) {
        const __m512i four = _mm512_set1_epi32(*(const int32_t*)(x + i * inputs + k));
        je_dot(&left[i], here, four);
        je_dot(&right[i], there, four);
      }
    }
    const __m512 here = _mm512_load_ps(scales), there = _mm512_load_ps(scales + 16);
#pragma GCC unroll 12
    for (int i = 0; i < count; i++) {
      const __m512 scale = _mm512_set1_ps(rows->scales[first + i]);
      const __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(left[i]), scale);
      const __m512 c = _mm512_mul_ps(_mm512_cvtepi32_ps(right[i]), scale);
      found[i][0] = _mm512_fmadd_ps(a, here, found[i][0]);
      found[i][1] = _mm512_fmadd_ps(c, there, found[i][1]);
    }
  }
  for (int i = 0; i < count; i++)
    for (int half = 0; half < 2; half++)
      apply(y + (row + i) * stride + 16 * half, found[i][half], je_first(outputs - 16 * half), epilogue);
}

static void many_rows(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue,
                      uint8_t* panel) {
  const size_t bytes = bytes_of(part);
  const int soon = next.outputs && rows->count < SOON;
  float* scales = (float*)(panel + rows->blocks * JE_BLOCK * JE_TILE);
  for (int half = 0; 16 * half < part.outputs; half++) { /* another is summed, and not written */
    const uint8_t* later = levels_of(half && soon ? next : part);
    if (!half && part.outputs > 16) later += 16 * bytes;
    widen(panel + 64 * half, scales + 16 * half, part.matrix, rows->blocks, part.first + 16 * half,
          part.outputs - 16 * half, later);
  }
  int row = 0, left;
  for (; (left = rows->count - row) >= 24 || left == 12; row += 12) /* 13 would leave one alone */
    multiply(panel, scales, rows, row, y, stride, part.outputs, epilogue, 12);
  for (; row + 8 <= rows->count; row += 8) multiply(panel, scales, rows, row, y, stride, part.outputs, epilogue, 8);
  for (; row + 4 <= rows->count; row += 4) multiply(panel, scales, rows, row, y, stride, part.outputs, epilogue, 4);
  for (; row < rows->count; row++) multiply(panel, scales, rows, row, y, stride, part.outputs, epilogue, 1);
}

void je_matmul(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue,
               uint8_t* panel) {
  if (rows->count <= JE_FEW)
    few_rows(part, next, rows, y, stride, epilogue);
  else
    many_rows(part, next, rows, y, stride, epilogue, panel);
}

size_t je_panel_bytes(int inputs) {
  return (size_t)(inputs + JE_BLOCK - 1) / JE_BLOCK * JE_TILE * (JE_BLOCK + sizeof(float));
}
