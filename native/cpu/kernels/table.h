/* The kernels that every instruction set has, as a table of functions, and what they read and write. */
#ifndef JE_TABLE_H
#define JE_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "../decoder.h"

#define JE_TILE 32          /* outputs that lie side by side in memory */
#define JE_MAX_BLOCK 128    /* inputs that share a scale: 128 of 4-bit weights, 32 or 128 of 8-bit weights */
#define JE_MAX_HEAD_DIM 256 /* largest width of an attention head */
#define JE_QUERIES 12       /* of one head, computed together */

static inline size_t je_blocks(const je_matrix* matrix) {
  return (size_t)(matrix->inputs + matrix->block - 1) / matrix->block;
}
static inline int je_tiles(const je_matrix* matrix) { return (matrix->outputs + JE_TILE - 1) / JE_TILE; }
/* Return the bytes of a tile's block: 32 scales, then the weights. */
static inline size_t je_record_bytes(int bits, int block) { return JE_TILE * sizeof(float) + JE_TILE * block * bits / 8; }

/* Activations of a matrix product, quantized to 8 bits in blocks.
 *
 * starts: for a convolution, whose row is a window of an image: a window's block b is the pixel (starts[b] + origin + row)
 * of the image. NULL: rows are stored as they are. */
typedef struct {
  int count, blocks, block; /* rows; blocks per row; inputs per block: 128 or 32 */
  int8_t* quantized;        /* (blocks, rows, block) */
  float* scales;            /* (blocks, rows) */
  int32_t* sums;            /* (blocks, rows): sum of a block's quantized values */
  const int32_t* starts;    /* (blocks of the matrix) */
  int origin;
} je_rows;

/* What is written to y for a product p: JE_STORE: p; JE_ADD: y + p; JE_GATE: silu(p) * y; JE_GELU: gelu(p). */
typedef enum { JE_STORE, JE_ADD, JE_GATE, JE_GELU } je_epilogue;

/* Tiles first ... first + count - 1 of a matrix. */
typedef struct {
  const je_matrix* matrix;
  int first, count;
} je_part;

/* The arguments of attention in one layer. Letters: see decoder.h. */
typedef struct {
  const je_model* model;
  const je_layer* layer;
  int rows, time, cache_length, last_only; /* last_only: attend with each row's last valid position alone */
  const int64_t *positions, *lengths; /* (rows, time) and (rows) */
  const float* qkv;                   /* (rows * time, (H + 2 G) * E) */
  float* attended;                    /* (rows * time, H * E) */
  int8_t *keys, *values;              /* (rows, G, M, E) */
} je_attention;

/* Attention of all slots to all slots. num_slots: N. qkv (N, stride): queries, keys and values, each (heads, E). */
typedef struct {
  int num_slots, num_heads, head_dim;
  const float* qkv;
  float* attended; /* (N, heads * E) */
} je_full_attention;

typedef struct {
  const char* name;
  /* Quantize x (inputs) and store it as this row. The last block is filled with zeros. */
  void (*quantize_row)(const je_rows* rows, int row, const float* x, int inputs);
  /* RMSNorm: y = x / sqrt(mean(x^2) + epsilon) * weight, each of `width` floats. */
  void (*norm)(float* y, const float* x, const float* weight, int width, float epsilon);
  /* Multiply the rows with one part of a matrix.
   *
   * next: the part that the same thread most likely takes next; its first weights are prefetched. No tiles: none.
   * y (rows, stride): points to the part's first output of the first row. stride: floats from one row to the next. */
  void (*matmul)(je_part part, je_part next, const je_rows* rows, float* y, size_t stride, je_epilogue epilogue);
  /* Prefetch the first weights of a part, if no call of matmul named it as its next part. */
  void (*prefetch)(je_part part);
  /* Compute attention of one row for one key-value head (group) and all query heads that share it. piece: row * G + group.
   * next: the piece that the same thread most likely takes next, whose keys are prefetched, or -1. scratch: at least
   * je_attention_bytes() bytes. */
  void (*attend)(const je_attention* attention, int piece, int next, float* scratch);
  /* LayerNorm: y = (x - mean) / sqrt(variance + epsilon) * weight + bias, each of `width` floats. */
  void (*layer_norm)(float* y, const float* x, const float* weight, const float* bias, int width, float epsilon);
  /* Compute full attention of one head. scratch: je_full_attention_bytes() bytes. */
  void (*attend_all)(const je_full_attention* attention, int head, float* scratch);
  /* Add the sum of each channel's values, and of their squares, to sums (2, channels). x: (pixels, channels). */
  void (*add_moments)(float* sums, const float* x, int pixels, int channels);
  /* y = silu(x * scale + shift) by channel; without SiLU if has_silu is 0. */
  void (*scale_channels)(float* y, const float* x, const float* scale, const float* shift, int channels, int has_silu);
  /* Multiply 4-bit weights with inputs in registers only. Return the number of operations, two for each product. */
  int64_t (*multiply_only)(int repeats);
} je_kernels;

/* Return the length rounded up to whole tiles. */
static inline size_t je_padded(size_t length) { return (length + JE_TILE - 1) / JE_TILE * JE_TILE; }

/* Return the bytes of scratch that attend needs. longest: the largest number of positions of a row after the call,
 * padding included. */
static inline size_t je_attention_bytes(const je_model* model, int time, int longest) {
  const size_t slots = je_padded((size_t)longest), width = (size_t)model->head_dim;
  const size_t widened_bytes = time > JE_QUERIES ? 2 * slots * width * sizeof(int16_t) : 0;
  return JE_QUERIES * (slots + width) * sizeof(float) + widened_bytes;
}

/* Return the bytes of scratch that attend_all needs. */
static inline size_t je_full_attention_bytes(const je_full_attention* attention) {
  const size_t slots = je_padded((size_t)attention->num_slots), width = (size_t)attention->head_dim;
  return (JE_QUERIES * (slots + width) + 2 * width) * sizeof(float) + 2 * slots * width * sizeof(int16_t);
}

/* Return how many of a row's new positions are valid. */
static inline int je_valid(const je_attention* attention, int row) {
  const int64_t length = attention->lengths[row];
  return length < attention->time ? (int)length : attention->time;
}

/* Return the kernels that are used; NULL if this processor has none. */
const je_kernels* je_kernels_in_use(void);

#endif
