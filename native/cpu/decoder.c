#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "products.h"
#include "system.h"

struct je_decoder {
  const je_model* model;
  je_pool* pool;
  int mlp_width; /* outputs of the gate and up projections */
  char* memory;  /* all buffers of a run; the next run reuses them */
  size_t num_bytes;
  const int* stop;
};

/* What the tasks of one call of je_decoder_run read and write. */
typedef struct {
  const je_kernels* kernels;
  const je_model* model;
  const je_layer* layer;
  int tokens, mlp_width, num_threads;
  float *x, *qkv, *attended, *gated, *normed; /* (tokens, ...) */
  char* scratch; /* scratch_bytes for each worker: the buffers of attention */
  size_t scratch_bytes;
  je_rows rows; /* the quantized input of the next matrix products */
  je_attention attention;
  /* arguments of quantize_task and norm_task */
  const float *source, *weight;
  float* target;
  int width;
  /* arguments of matmul_task; each piece computes one part */
  const je_matrix *matrices[3], *gate;
  float* y;
  size_t stride;
  je_epilogue epilogue;
} decoder_run;

je_decoder* je_decoder_open(const je_model* model, je_pool* pool) {
  je_decoder* decoder = calloc(1, sizeof *decoder);
  if (decoder) *decoder = (je_decoder){.model = model, .pool = pool, .mlp_width = model->layers->up.outputs};
  return decoder;
}

void je_decoder_stop_by(je_decoder* decoder, const int* flag) { decoder->stop = flag; }

void je_decoder_close(je_decoder* decoder) {
  if (!decoder) return;
  je_free_aligned(decoder->memory);
  free(decoder);
}

/* Return the number of tiles in a part. With many rows one tile is enough work. With few rows longer parts read memory
 * faster. */
static int tiles_per_part(const decoder_run* run) { return run->tokens > JE_FEW_ROWS ? 1 : 2; }

static int num_parts(const decoder_run* run, const je_matrix* matrix) {
  return (je_tiles(matrix) + tiles_per_part(run) - 1) / tiles_per_part(run);
}

/* Return the part with this number, counted over all matrices of the run, and set *y to where its outputs go. If the
 * number is negative, the part has no tiles. */
static je_part part_of(const decoder_run* run, int number, float** y) {
  const int longest = tiles_per_part(run);
  *y = run->y;
  for (int i = 0; number >= 0 && i < 3 && run->matrices[i]; i++) {
    const je_matrix* matrix = run->matrices[i];
    const int count = num_parts(run, matrix), first = number * longest, remaining = je_tiles(matrix) - first;
    if (number < count) {
      *y += first * JE_TILE;
      return (je_part){matrix, first, remaining < longest ? remaining : longest};
    }
    number -= count;
    *y += matrix->outputs;
  }
  return (je_part){0};
}

static void matmul_task(void* context, je_piece piece) {
  const decoder_run* run = context;
  const je_kernels* kernels = run->kernels;
  float *y, *next_y;
  const je_part part = part_of(run, piece.number, &y), next = part_of(run, piece.next, &next_y);
  if (!piece.is_next) kernels->prefetch(part);
  if (!run->gate) {
    kernels->matmul(part, next, &run->rows, y, run->stride, run->epilogue);
    return;
  }
  const je_part gate = {run->gate, part.first, part.count};
  kernels->matmul(part, gate, &run->rows, y, run->stride, JE_STORE);
  kernels->matmul(gate, next, &run->rows, y, run->stride, JE_GATE);
}

static void attention_task(void* context, je_piece piece) {
  const decoder_run* run = context;
  run->kernels->attend(&run->attention, piece.number, piece.next,
                       (float*)(run->scratch + piece.worker * run->scratch_bytes));
}

static void quantize_task(void* context, je_piece piece) {
  const decoder_run* run = context;
  const float* x = run->source + (size_t)piece.number * run->width;
  if (run->weight) {
    float* y = run->target + (size_t)piece.number * run->width;
    run->kernels->norm(y, x, run->weight, run->width, run->model->epsilon);
    x = y;
  }
  run->kernels->quantize_row(&run->rows, piece.number, x, run->width);
}

/* Return which of the new positions a row of x belongs to. */
static size_t position_of(const decoder_run* run, int number) {
  if (!run->attention.last_only) return (size_t)number;
  const int valid = je_valid(&run->attention, number);
  return (size_t)number * run->attention.time + (valid ? valid - 1 : 0);
}

static void norm_task(void* context, je_piece piece) {
  const decoder_run* run = context;
  const size_t width = (size_t)run->width, at = position_of(run, piece.number) * width;
  run->kernels->norm(run->target + at, run->x + piece.number * width, run->model->norm, run->width, run->model->epsilon);
}

/* Run the task for each row. With few rows the caller does them all: waking the other threads would take longer. */
static void run_each_row(je_decoder* decoder, decoder_run* run, je_task task) {
  if (run->tokens > JE_FEW_ROWS)
    je_pool_run(decoder->pool, task, run, run->tokens);
  else
    for (int i = 0; i < run->tokens; i++) task(run, (je_piece){.number = i, .next = -1});
}

/* Quantize x, the input of the next matrix products. If weight is not NULL, x is normalized by RMSNorm first. */
static void quantize_rows(je_decoder* decoder, decoder_run* run, const float* x, const float* weight, int width) {
  run->source = x;
  run->weight = weight;
  run->target = run->normed;
  run->width = width;
  run->rows.blocks = (width + JE_MAX_BLOCK - 1) / JE_MAX_BLOCK;
  run_each_row(decoder, run, quantize_task);
}

/* Multiply the quantized rows with up to three matrices that share this input. Their outputs lie side by side in y.
 * If gate is not NULL, the result is y = silu(product with gate) * (product with matrices). */
static void multiply(je_decoder* decoder, decoder_run* run, const je_matrix* const matrices[3], const je_matrix* gate,
                     float* y, size_t stride, je_epilogue epilogue) {
  memcpy(run->matrices, matrices, sizeof run->matrices);
  run->gate = gate;
  run->y = y;
  run->stride = stride;
  run->epilogue = epilogue;
  int count = 0;
  for (int i = 0; i < 3 && matrices[i]; i++) count += num_parts(run, matrices[i]);
  je_pool_run(decoder->pool, matmul_task, run, count);
}

/* Keep the rows of x and of attention's results that belong to each row's last valid position, side by side. */
static void keep_last(decoder_run* run) {
  const size_t width = (size_t)run->model->width, query_width = (size_t)run->model->num_heads * run->model->head_dim;
  for (int row = 0; row < run->attention.rows; row++) {
    const size_t from = position_of(run, row);
    memmove(run->x + row * width, run->x + from * width, width * sizeof(float));
    memmove(run->attended + row * query_width, run->attended + from * query_width, query_width * sizeof(float));
  }
  run->tokens = run->rows.count = run->attention.rows;
}

static void run_layer(je_decoder* decoder, decoder_run* run) {
  const je_model* model = run->model;
  const je_layer* layer = run->layer;
  const int query_width = model->num_heads * model->head_dim;
  const size_t stride = (size_t)(query_width + 2 * model->num_kv_heads * model->head_dim);
  const je_matrix* const qkv[3] = {&layer->q, &layer->k, &layer->v};
  const je_matrix *const o[3] = {&layer->o}, *const up[3] = {&layer->up}, *const down[3] = {&layer->down};
  quantize_rows(decoder, run, run->x, layer->attention_norm, model->width);
  multiply(decoder, run, qkv, NULL, run->qkv, stride, JE_STORE);
  je_pool_run(decoder->pool, attention_task, run, run->attention.rows * model->num_kv_heads);
  if (run->attention.last_only) keep_last(run);
  quantize_rows(decoder, run, run->attended, NULL, query_width);
  multiply(decoder, run, o, NULL, run->x, (size_t)model->width, JE_ADD);
  quantize_rows(decoder, run, run->x, layer->mlp_norm, model->width);
  multiply(decoder, run, up, &layer->gate, run->gated, (size_t)run->mlp_width, JE_STORE);
  quantize_rows(decoder, run, run->gated, NULL, run->mlp_width);
  multiply(decoder, run, down, NULL, run->x, (size_t)model->width, JE_ADD);
}

/* Place all buffers of the run in memory and return their total size in bytes. If memory is NULL, only count.
 * longest: the number of positions of the longest row after the call. */
static size_t lay_out(decoder_run* run, char* memory, size_t longest) {
  const je_model* model = run->model;
  const size_t tokens = (size_t)run->tokens, width = (size_t)model->width, mlp_width = (size_t)run->mlp_width;
  const size_t query_width = (size_t)model->num_heads * model->head_dim;
  const size_t kv_width = (size_t)model->num_kv_heads * model->head_dim;
  const size_t widest = width > mlp_width ? (width > query_width ? width : query_width)
                                          : (mlp_width > query_width ? mlp_width : query_width);
  const size_t blocks = (widest + JE_MAX_BLOCK - 1) / JE_MAX_BLOCK;
  const size_t attention = je_attention_bytes(model, run->attention.time, (int)longest);
  size_t used = 0;
  run->x = je_reserve(memory, &used, tokens * width * sizeof(float));
  run->normed = je_reserve(memory, &used, tokens * width * sizeof(float));
  run->qkv = je_reserve(memory, &used, tokens * (query_width + 2 * kv_width) * sizeof(float));
  run->attended = je_reserve(memory, &used, tokens * query_width * sizeof(float));
  run->gated = je_reserve(memory, &used, tokens * mlp_width * sizeof(float));
  run->rows.quantized = je_reserve(memory, &used, tokens * blocks * JE_MAX_BLOCK);
  run->rows.scales = je_reserve(memory, &used, tokens * blocks * sizeof(float));
  run->rows.sums = je_reserve(memory, &used, tokens * blocks * sizeof(int32_t));
  run->scratch_bytes = (attention + 63) / 64 * 64;
  run->scratch = je_reserve(memory, &used, run->scratch_bytes * (size_t)run->num_threads);
  return used;
}

int je_decoder_run(je_decoder* decoder, int32_t rows, int32_t time, const float* embeds, const int64_t* positions,
                   const int64_t* lengths, int32_t cache_length, int8_t* const* caches, float* hidden, int32_t last_only) {
  const je_model* model = decoder->model;
  decoder_run run = {.kernels = je_kernels_in_use(),
                     .model = model,
                     .tokens = rows * time,
                     .mlp_width = decoder->mlp_width,
                     .num_threads = je_pool_size(decoder->pool)};
  run.rows.count = run.tokens;
  run.rows.block = JE_MAX_BLOCK;
  run.attention = (je_attention){.model = model,
                                 .rows = rows,
                                 .time = time,
                                 .cache_length = cache_length,
                                 .positions = positions,
                                 .lengths = lengths};
  int64_t longest = time;
  for (int row = 0; row < rows; row++) longest = lengths[row] > longest ? lengths[row] : longest;
  const size_t needed = lay_out(&run, NULL, (size_t)longest);
  if (needed > decoder->num_bytes) {
    void* memory = je_allocate_aligned(needed);
    if (!memory) return -1;
    je_free_aligned(decoder->memory);
    decoder->memory = memory;
    decoder->num_bytes = needed;
  }
  lay_out(&run, decoder->memory, (size_t)longest);
  memcpy(run.x, embeds, (size_t)run.tokens * model->width * sizeof(float));
  /* attention writes nothing for padding, and later layers read it */
  memset(run.attended, 0, (size_t)run.tokens * model->num_heads * model->head_dim * sizeof(float));
  run.attention.qkv = run.qkv;
  run.attention.attended = run.attended;
  for (int i = 0; i < model->num_layers; i++) {
    run.layer = run.attention.layer = &model->layers[i];
    run.attention.last_only = last_only && i == model->num_layers - 1;
    run.attention.keys = caches[2 * i];
    run.attention.values = caches[2 * i + 1];
    if (je_is_stopped(decoder->stop)) return 1;
    run_layer(decoder, &run);
  }
  run.target = hidden;
  run.width = model->width;
  run_each_row(decoder, &run, norm_task);
  return 0;
}
