#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "matmul.h"
#include "pool.h"

struct je_decoder {
  const je_model* model;
  je_pool* pool;
  int inner;    /* what gate and up put out */
  char* memory; /* all buffers of a run, kept for the next */
  size_t num_bytes;
  const int* stop;
};

/* One run: what its tasks read and write. */
typedef struct {
  const je_model* model;
  const je_layer* layer;
  int tokens, inner, num_threads;
  float *x, *qkv, *mixed, *gated, *normed; /* (tokens, ...) */
  char* scratch;                           /* a worker's: a panel, or what attention takes */
  size_t scratch_bytes;
  je_rows rows; /* the input of the next products */
  je_attention attention;
  /* of the rows' next task */
  const float *source, *weight;
  float* target;
  int width;
  /* of the products' task, a part each */
  const je_matrix *matrices[3], *gate;
  float* y;
  size_t stride;
  je_epilogue epilogue;
} run_of;

je_decoder* je_decoder_open(const je_model* model, je_pool* pool) {
  je_decoder* decoder = calloc(1, sizeof *decoder);
  if (decoder) *decoder = (je_decoder){.model = model, .pool = pool, .inner = model->layers->up.outputs};
  return decoder;
}

void je_decoder_stop_by(je_decoder* decoder, const int* flag) { decoder->stop = flag; }

void je_decoder_close(je_decoder* decoder) {
  if (!decoder) return;
  free(decoder->memory);
  free(decoder);
}

/* Outputs of a part: of many rows a tile is work enough; of few, parts as long as the memory likes. */
static int share(const run_of* run) { return run->tokens > JE_FEW ? JE_TILE : 2 * JE_TILE; }

static int num_parts(const run_of* run, const je_matrix* matrix) {
  return (matrix->outputs + share(run) - 1) / share(run);
}

/* A part by its number over all matrices, and where its outputs go; of no outputs without a number. */
static je_part part_of(const run_of* run, int number, float** y) {
  *y = run->y;
  for (int i = 0; number >= 0 && i < 3 && run->matrices[i]; i++) {
    const je_matrix* matrix = run->matrices[i];
    const int count = num_parts(run, matrix), first = number * share(run), left = matrix->outputs - first;
    if (number < count) {
      *y += first;
      return (je_part){matrix, first, left < share(run) ? left : share(run)};
    }
    number -= count;
    *y += matrix->outputs;
  }
  return (je_part){0};
}

static void matmul_task(void* context, je_piece piece) {
  const run_of* run = context;
  uint8_t* panel = (uint8_t*)run->scratch + piece.worker * run->scratch_bytes;
  float *y, *next_y;
  const je_part part = part_of(run, piece.number, &y), next = part_of(run, piece.next, &next_y);
  if (!piece.is_next) je_prefetch(part, &run->rows);
  if (!run->gate) {
    je_matmul(part, next, &run->rows, y, run->stride, run->epilogue, panel);
    return;
  }
  const je_part gate = {run->gate, part.first, part.outputs};
  je_matmul(part, gate, &run->rows, y, run->stride, JE_STORE, panel);
  je_matmul(gate, next, &run->rows, y, run->stride, JE_GATE, panel);
}

static void attention_task(void* context, je_piece piece) {
  const run_of* run = context;
  const int groups = run->model->num_kv_heads;
  je_attend(&run->attention, piece.number / groups, piece.number % groups,
            (float*)(run->scratch + piece.worker * run->scratch_bytes));
}

static void round_task(void* context, je_piece piece) {
  const run_of* run = context;
  const float* x = run->source + (size_t)piece.number * run->width;
  if (run->weight) {
    float* y = run->target + (size_t)piece.number * run->width;
    je_norm(y, x, run->weight, run->width, run->model->epsilon);
    x = y;
  }
  je_round_row(&run->rows, piece.number, x, run->width);
}

static void norm_task(void* context, je_piece piece) {
  const run_of* run = context;
  const size_t at = (size_t)piece.number * run->width;
  je_norm(run->target + at, run->x + at, run->model->norm, run->width, run->model->epsilon);
}

/* A row's worth of work is not worth another thread's attention where rows are few. */
static void each_row(je_decoder* decoder, run_of* run, je_task task) {
  if (run->tokens > JE_FEW)
    je_pool_run(decoder->pool, task, run, run->tokens);
  else
    for (int i = 0; i < run->tokens; i++) task(run, (je_piece){.number = i, .next = -1});
}

/* The input of the next products: normed where there is a weight for that. */
static void round_rows(je_decoder* decoder, run_of* run, const float* x, const float* weight, int width) {
  run->source = x;
  run->weight = weight;
  run->target = run->normed;
  run->width = width;
  run->rows.blocks = (width + JE_BLOCK - 1) / JE_BLOCK;
  each_row(decoder, run, round_task);
}

/* Products with one or several matrices that share an input, side by side in y. gate: silu of its products
 * then multiplies them, where there is one. */
static void multiply(je_decoder* decoder, run_of* run, const je_matrix* const matrices[3], const je_matrix* gate,
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

static void run_layer(je_decoder* decoder, run_of* run) {
  const je_model* model = run->model;
  const je_layer* layer = run->layer;
  const int queries = model->num_heads * model->head_dim;
  const size_t stride = (size_t)(queries + 2 * model->num_kv_heads * model->head_dim);
  const je_matrix* const qkv[3] = {&layer->q, &layer->k, &layer->v};
  const je_matrix *const o[3] = {&layer->o}, *const up[3] = {&layer->up}, *const down[3] = {&layer->down};
  round_rows(decoder, run, run->x, layer->attention_norm, model->width);
  multiply(decoder, run, qkv, NULL, run->qkv, stride, JE_STORE);
  je_pool_run(decoder->pool, attention_task, run, run->attention.rows * model->num_kv_heads);
  round_rows(decoder, run, run->mixed, NULL, queries);
  multiply(decoder, run, o, NULL, run->x, (size_t)model->width, JE_ADD);
  round_rows(decoder, run, run->x, layer->mlp_norm, model->width);
  multiply(decoder, run, up, &layer->gate, run->gated, (size_t)run->inner, JE_STORE);
  round_rows(decoder, run, run->gated, NULL, run->inner);
  multiply(decoder, run, down, NULL, run->x, (size_t)model->width, JE_ADD);
}

/* The next part of the decoder's memory, or its size while there is none. */
static void* take(char* memory, size_t* used, size_t bytes) {
  void* found = memory ? memory + *used : NULL;
  *used += (bytes + 63) / 64 * 64;
  return found;
}

static size_t lay_out(run_of* run, char* memory, size_t longest) {
  const je_model* model = run->model;
  const size_t tokens = (size_t)run->tokens, width = (size_t)model->width, inner = (size_t)run->inner;
  const size_t queries = (size_t)model->num_heads * model->head_dim;
  const size_t shared = (size_t)model->num_kv_heads * model->head_dim;
  const size_t widest = width > inner ? (width > queries ? width : queries) : (inner > queries ? inner : queries);
  const size_t blocks = (widest + JE_BLOCK - 1) / JE_BLOCK;
  const size_t panel = je_panel_bytes((int)widest);
  const size_t attention = je_attention_bytes(model, run->attention.time, (int)longest);
  size_t used = 0;
  run->x = take(memory, &used, tokens * width * sizeof(float));
  run->normed = take(memory, &used, tokens * width * sizeof(float));
  run->qkv = take(memory, &used, tokens * (queries + 2 * shared) * sizeof(float));
  run->mixed = take(memory, &used, tokens * queries * sizeof(float));
  run->gated = take(memory, &used, tokens * inner * sizeof(float));
  run->rows.levels = take(memory, &used, tokens * blocks * JE_BLOCK);
  run->rows.scales = take(memory, &used, tokens * blocks * sizeof(float));
  run->rows.zeros = take(memory, &used, tokens * blocks * sizeof(int32_t));
  run->scratch_bytes = ((panel > attention ? panel : attention) + 63) / 64 * 64;
  run->scratch = take(memory, &used, run->scratch_bytes * (size_t)run->num_threads);
  return used;
}

int je_decoder_run(je_decoder* decoder, int32_t rows, int32_t time, const float* embeds, const int64_t* positions,
                   const int64_t* lengths, int32_t cache_length, int8_t* const* caches, float* hidden) {
  const je_model* model = decoder->model;
  run_of run = {
      .model = model, .tokens = rows * time, .inner = decoder->inner, .num_threads = je_pool_size(decoder->pool)};
  run.rows.count = run.tokens;
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
    void* memory = aligned_alloc(64, needed);
    if (!memory) return -1;
    free(decoder->memory);
    decoder->memory = memory;
    decoder->num_bytes = needed;
  }
  lay_out(&run, decoder->memory, (size_t)longest);
  memcpy(run.x, embeds, (size_t)run.tokens * model->width * sizeof(float));
  /* padding's is never written */
  memset(run.mixed, 0, (size_t)run.tokens * model->num_heads * model->head_dim * sizeof(float));
  run.attention.qkv = run.qkv;
  run.attention.mixed = run.mixed;
  for (int i = 0; i < model->num_layers; i++) {
    run.layer = run.attention.layer = &model->layers[i];
    run.attention.keys = caches[2 * i];
    run.attention.values = caches[2 * i + 1];
    if (decoder->stop && __atomic_load_n(decoder->stop, __ATOMIC_RELAXED)) return 1;
    run_layer(decoder, &run);
  }
  run.target = hidden;
  run.width = model->width;
  each_row(decoder, &run, norm_task);
  return 0;
}
