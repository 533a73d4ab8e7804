/* Runs small decoders and heads and prints a hash of each row's results, to compare instruction sets and processors.
 *
 * usage: bits EVERY NAME...   every EVERYth case with each of these instruction sets
 *
 * Prints "chosen NAME" (what runs unless another set is asked for), then for each set "NAME: not here" or one line
 * "NAME: CASE, past P: HASH..." per case, with one hash per row. All numbers come from integers, and row i has the same
 * inputs in all cases with the same P: its hash must be the same whatever the number of rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/cpu/decoder.h"
#include "../../native/cpu/head.h"
#include "../../native/cpu/kernels/table.h"

#define LENGTH 200 /* of caches and of the tables of cos and sin */
#define MAX_ROWS 60
#define ONE 65536

static uint64_t state; /* of the generator */

static uint32_t next_number(void) {
  state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(state >> 33);
}

/* All memory of a model's cases, in a list that free_all frees. */
typedef struct block {
  struct block* before;
  _Alignas(16) char bytes[];
} block;
static block* last_block;

/* Return zeros of `bytes` bytes, which live until free_all. */
static void* room(size_t bytes) {
  block* found = calloc(1, sizeof *found + bytes);
  if (!found) {
    fprintf(stderr, "bits: no memory\n");
    exit(1);
  }
  found->before = last_block;
  last_block = found;
  return found->bytes;
}

static void free_all(void) {
  for (block* before; last_block; last_block = before) {
    before = last_block->before;
    free(last_block);
  }
}

/* Fill y with numbers from low to high, all in units of 1 / 65536: exact, whatever the compiler contracts. */
static float* fill(float* y, size_t count, int low, int high) {
  for (size_t i = 0; i < count; i++) y[i] = (float)(low + (int)(next_number() % (uint32_t)(high - low + 1))) / ONE;
  return y;
}

static float* made(size_t count, int low, int high) { return fill(room(count * sizeof(float)), count, low, high); }

static je_matrix matrix_in_blocks(int outputs, int inputs, int bits, int block, int has_bias) {
  je_matrix y = {.outputs = outputs, .inputs = inputs, .bits = bits, .block = block};
  const size_t bytes = je_record_bytes(bits, block), tiles = ((size_t)outputs + JE_TILE - 1) / JE_TILE;
  uint8_t* at = room(tiles * je_blocks(&y) * bytes);
  y.tiles = at;
  for (size_t record = 0; record < tiles * je_blocks(&y); record++, at += bytes) {
    fill((float*)at, JE_TILE, ONE / 1000, ONE / 100);
    for (size_t i = JE_TILE * sizeof(float); i < bytes; i++) at[i] = (uint8_t)next_number();
  }
  if (has_bias) y.bias = made((size_t)outputs, -ONE, ONE);
  return y;
}

static je_matrix matrix(int outputs, int inputs, int bits, int has_bias) {
  return matrix_in_blocks(outputs, inputs, bits, bits == 4 || inputs % 128 == 0 ? 128 : 32, has_bias);
}

/* End the program if a number is not finite: then the inputs would test little. */
static void check_finite(const float* x, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (!isfinite(x[i])) {
      fprintf(stderr, "bits: a result is not finite\n");
      exit(1);
    }
}

static uint64_t hashed(uint64_t hash, const void* bytes, size_t count) { /* FNV-1a */
  for (size_t i = 0; i < count; i++) hash = (hash ^ ((const uint8_t*)bytes)[i]) * UINT64_C(1099511628211);
  return hash;
}

/* --- decoders --- */

typedef struct {
  const char* name;
  int width, num_heads, num_kv_heads, head_dim, mlp_width;
} size_of;

static const size_of kDecoders[] = {
    {"heads of 32", 96, 3, 3, 32, 80},
    {"heads of 64", 128, 4, 2, 64, 172},
    {"heads of 128, odd widths", 288, 3, 1, 128, 300},
    {"heads of 256", 200, 2, 1, 256, 130},
};
#define LAYERS 2

/* Runs of each decoder. is_ragged: row i is i % 3 positions shorter. */
typedef struct {
  int rows, past, time, is_ragged;
} run_of;

static const run_of kRuns[] = {
    {1, 40, 1, 0}, {2, 40, 1, 0}, {3, 40, 1, 0},   {5, 40, 1, 0}, {8, 40, 1, 0}, {13, 40, 1, 0}, {4, 131, 1, 1},
    {1, 9, 3, 0},  {2, 9, 3, 0},  {3, 150, 17, 0}, {1, 0, 77, 0}, {3, 0, 77, 1}, {2, 30, 50, 1},
};

static je_model make_model(const size_of* size) {
  const size_t width = (size_t)size->width, kv_width = (size_t)size->num_kv_heads * size->head_dim;
  const int query_width = size->num_heads * size->head_dim;
  je_layer* layers = room(LAYERS * sizeof *layers);
  for (je_layer* layer = layers; layer < layers + LAYERS; layer++) {
    layer->attention_norm = made(width, ONE / 2, ONE);
    layer->mlp_norm = made(width, ONE / 2, ONE);
    layer->key_scales = made(kv_width, ONE / 100, ONE / 20);
    layer->value_scales = made(kv_width, ONE / 100, ONE / 20);
    layer->q = matrix(query_width, size->width, 4, 0);
    layer->k = matrix((int)kv_width, size->width, 4, 0);
    layer->v = matrix((int)kv_width, size->width, 4, 0);
    layer->o = matrix(size->width, query_width, 4, 0);
    layer->gate = matrix(size->mlp_width, size->width, 4, 0);
    layer->up = matrix(size->mlp_width, size->width, 4, 0);
    layer->down = matrix(size->width, size->mlp_width, 4, 0);
  }
  const size_t angles = (size_t)LENGTH * size->head_dim / 2;
  return (je_model){.num_layers = LAYERS,
                    .width = size->width,
                    .num_heads = size->num_heads,
                    .num_kv_heads = size->num_kv_heads,
                    .head_dim = size->head_dim,
                    .epsilon = 1e-6f,
                    .cos = made(angles, -ONE, ONE),
                    .sin = made(angles, -ONE, ONE),
                    .norm = made(width, ONE / 2, ONE),
                    .layers = layers};
}

/* Print the hash of each row's hidden states and caches. */
static void print_rows(const je_model* model, const run_of* run, const int64_t* lengths, const float* hidden,
                       int8_t* const* caches) {
  const size_t heads = (size_t)model->num_kv_heads, width = (size_t)model->head_dim;
  for (int row = 0; row < run->rows; row++) {
    const size_t known = (size_t)lengths[row], fresh = known < (size_t)run->time ? known : (size_t)run->time;
    uint64_t hash = UINT64_C(14695981039346656037);
    const float* new_hidden = hidden + (size_t)row * run->time * model->width;
    check_finite(new_hidden, fresh * model->width);
    hash = hashed(hash, new_hidden, fresh * model->width * sizeof(float));
    for (int i = 0; i < 2 * LAYERS; i++)
      for (size_t head = 0; head < heads; head++)
        hash = hashed(hash, caches[i] + ((size_t)row * heads + head) * LENGTH * width, known * width);
    printf(" %016llx", (unsigned long long)hash);
  }
  printf("\n");
}

/* Leave the states of each row's last valid position, and make all others 0. */
static void clear_others(const run_of* run, const int64_t* lengths, int width, float* hidden) {
  for (int row = 0; row < run->rows; row++)
    for (int t = 0; t < run->time; t++)
      if (t != (lengths[row] < run->time ? lengths[row] : run->time) - 1)
        memset(hidden + ((size_t)row * run->time + t) * width, 0, (size_t)width * sizeof *hidden);
}

/* Run a decoder again for the last positions alone, which are those of the run before. */
static void check_last(je_decoder* decoder, const run_of* run, int width, const float* embeds, const int64_t* positions,
                       const int64_t* lengths, int8_t* const* caches, float* hidden) {
  const size_t bytes = (size_t)run->rows * run->time * width * sizeof(float);
  float* last = room(bytes);
  memset(last, 0, bytes);
  if (je_decoder_run(decoder, run->rows, run->time, embeds, positions, lengths, LENGTH, caches, last, 1) != 0) exit(1);
  clear_others(run, lengths, width, hidden);
  if (memcmp(last, hidden, bytes) != 0) {
    fprintf(stderr, "the last positions alone differ\n");
    exit(1);
  }
}

static void run_decoder(je_pool* pool, const je_model* model, const run_of* run) {
  const size_t row_bytes = (size_t)model->num_kv_heads * LENGTH * model->head_dim, count = (size_t)run->rows;
  const size_t tokens = count * run->time;
  float *embeds = room(tokens * model->width * sizeof(float)), *hidden = room(tokens * model->width * sizeof(float));
  int64_t *positions = room(tokens * sizeof *positions), lengths[MAX_ROWS];
  int8_t* caches[2 * LAYERS];
  for (int i = 0; i < 2 * LAYERS; i++) caches[i] = room(count * row_bytes);
  for (int row = 0; row < run->rows; row++) {
    state = (uint64_t)row + 1000;
    lengths[row] = run->past + run->time - (run->is_ragged ? row % 3 : 0);
    const int64_t first = lengths[row] < run->time ? 0 : lengths[row] - run->time;
    for (int t = 0; t < run->time; t++) positions[row * run->time + t] = first + t;
    fill(embeds + (size_t)row * run->time * model->width, (size_t)run->time * model->width, -ONE, ONE);
    for (int i = 0; i < 2 * LAYERS; i++)
      for (size_t at = 0; at < row_bytes; at++) caches[i][row * row_bytes + at] = (int8_t)(next_number() % 255 - 127);
  }
  je_decoder* decoder = je_decoder_open(model, pool);
  if (!decoder ||
      je_decoder_run(decoder, run->rows, run->time, embeds, positions, lengths, LENGTH, caches, hidden, 0) != 0)
    exit(1);
  print_rows(model, run, lengths, hidden, caches);
  check_last(decoder, run, model->width, embeds, positions, lengths, caches, hidden);
  je_decoder_close(decoder);
}

/* --- heads --- */

static const struct {
  const char* name;
  int inputs, between, outputs; /* between: 0: one matrix */
} kHeads[] = {{"one matrix", 200, 0, 75}, {"two matrices", 72, 100, 331}};
static const int kRows[] = {1, 2, 3, 5, 8, 13, MAX_ROWS};

static void run_head(je_pool* pool, const je_matrix* matrices, int num_matrices, int rows) {
  const size_t inputs = (size_t)matrices->inputs, outputs = (size_t)matrices[num_matrices - 1].outputs;
  float *hidden = room((size_t)rows * inputs * sizeof(float)), *logits = room((size_t)rows * outputs * sizeof(float));
  for (int row = 0; row < rows; row++) {
    state = (uint64_t)row + 2000;
    /* the first row: the most negative numbers alone */
    fill(hidden + (size_t)row * inputs, inputs, -ONE, row ? ONE : -ONE);
  }
  if (je_head_run(pool, matrices, num_matrices, rows, hidden, logits) != 0) exit(1);
  check_finite(logits, (size_t)rows * outputs);
  for (int row = 0; row < rows; row++)
    printf(" %016llx", (unsigned long long)hashed(UINT64_C(14695981039346656037), logits + (size_t)row * outputs,
                                                  outputs * sizeof(float)));
  printf("\n");
}

#include "bits_images.h"

/* --- all cases --- */

static int is_due(int* number, int every) { return (*number)++ % every == 0; }

static void run_all(const char* set, je_pool* pool, int every) {
  int number = 0;
  for (size_t i = 0; i < sizeof kDecoders / sizeof *kDecoders; i++) {
    state = i;
    const je_model model = make_model(&kDecoders[i]);
    for (size_t j = 0; j < sizeof kRuns / sizeof *kRuns; j++) {
      const run_of* run = &kRuns[j];
      if (!is_due(&number, every)) continue;
      printf("%s: decoder, %s, %d rows, %d new, past %d%s:", set, kDecoders[i].name, run->rows, run->time, run->past,
             run->is_ragged ? " and less" : "");
      run_decoder(pool, &model, run);
    }
    free_all();
  }
  for (size_t i = 0; i < sizeof kHeads / sizeof *kHeads; i++) {
    state = i + 100;
    const int is_one = kHeads[i].between == 0;
    je_matrix matrices[2];
    matrices[0] = matrix(is_one ? kHeads[i].outputs : kHeads[i].between, kHeads[i].inputs, 8, 1);
    if (!is_one) matrices[1] = matrix(kHeads[i].outputs, kHeads[i].between, 8, 1);
    for (size_t j = 0; j < sizeof kRows / sizeof *kRows; j++) {
      if (!is_due(&number, every)) continue;
      printf("%s: head, %s, %d rows, past 0:", set, kHeads[i].name, kRows[j]);
      run_head(pool, matrices, is_one ? 1 : 2, kRows[j]);
    }
    free_all();
  }
  if (is_due(&number, every)) {
    printf("%s: encoder, 1 rows, past 0:", set);
    run_encoder(pool);
  }
  if (is_due(&number, every)) {
    printf("%s: image decoder, 1 rows, past 0:", set);
    run_image_decoder(pool);
  }
}

int main(int argc, char** argv) {
  const int every = argc > 1 ? atoi(argv[1]) : 0;
  je_pool* pool = je_pool_open(2);
  if (every < 1 || !pool) return 2;
  const char* chosen = je_instructions();
  printf("chosen %s\n", chosen ? chosen : "none");
  for (int i = 2; i < argc; i++)
    if (je_choose_instructions(argv[i]) == 1)
      run_all(argv[i], pool, every);
    else
      printf("%s: not here\n", argv[i]);
  je_pool_close(pool);
  return 0;
}
