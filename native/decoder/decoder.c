#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "pool.h"
#include "product.h"

struct je_decoder {
    const je_model *model;
    je_pool *pool;
    int num_threads, inner; /* inner: what gate and up put out */
    char *memory;           /* all buffers of a run, kept for the next */
    size_t num_bytes;
};

/* One run: what its tasks read and write. */
typedef struct {
    const je_model *model;
    const je_layer *layer;
    int tokens, inner, num_threads;
    float *x, *qkv, *mixed, *gated, *normed; /* (tokens, ...) */
    char *scratch;                           /* a worker's: a panel, or what attention takes */
    size_t scratch_bytes;
    je_rows rows; /* the input of the next products */
    je_attention attention;
    /* of the rows' next task */
    const float *source, *weight;
    float *target;
    int width;
    /* of the products' next task */
    const je_matrix *matrices[3];
    float *y;
    size_t stride;
    je_finish finish;
} run_of;

je_decoder *je_decoder_open(const je_model *model, int32_t num_threads) {
    je_decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) return NULL;
    *decoder = (je_decoder){.model = model, .num_threads = num_threads, .inner = model->layers->up.outputs};
    decoder->pool = je_pool_open(num_threads);
    if (decoder->pool) return decoder;
    free(decoder);
    return NULL;
}

void je_decoder_close(je_decoder *decoder) {
    if (!decoder) return;
    je_pool_close(decoder->pool);
    free(decoder->memory);
    free(decoder);
}

/* Outputs of a matrix that make one task. Many rows are work enough for a tile; of few, longer runs through
 * the weights are read faster, and four a thread even out who is slowed down by others. */
static int share(const run_of *run, const je_matrix *matrix) {
    const int tiles = (matrix->outputs + JE_TILE - 1) / JE_TILE, parts = 4 * run->num_threads;
    return run->tokens > JE_FEW ? JE_TILE : (tiles + parts - 1) / parts * JE_TILE;
}

static int num_tasks(const run_of *run, const je_matrix *matrix) {
    const int each = share(run, matrix);
    return (matrix->outputs + each - 1) / each;
}

static void multiply_part(const run_of *run, const je_matrix *matrix, int task, float *y, size_t stride,
                          je_finish finish, int worker) {
    const int each = share(run, matrix), first = task * each, left = matrix->outputs - first;
    int8_t *panel = (int8_t *)run->scratch + worker * run->scratch_bytes;
    je_product(matrix, &run->rows, first, left < each ? left : each, y + first, stride, finish, panel);
}

/* Products with one or several matrices that share an input, side by side in y. */
static void product_task(void *context, int task, int worker) {
    const run_of *run = context;
    float *y = run->y;
    const je_matrix *const *matrix = run->matrices;
    for (int count; task >= (count = num_tasks(run, *matrix)); matrix++) {
        task -= count;
        y += (*matrix)->outputs;
    }
    multiply_part(run, *matrix, task, y, run->stride, run->finish, worker);
}

/* silu(gate) * up. */
static void gate_task(void *context, int task, int worker) {
    const run_of *run = context;
    const je_layer *layer = run->layer;
    multiply_part(run, &layer->up, task, run->gated, (size_t)run->inner, JE_STORE, worker);
    multiply_part(run, &layer->gate, task, run->gated, (size_t)run->inner, JE_GATE, worker);
}

static void attention_task(void *context, int task, int worker) {
    const run_of *run = context;
    const int groups = run->model->num_kv_heads;
    je_attend(&run->attention, task / groups, task % groups,
              (float *)(run->scratch + worker * run->scratch_bytes));
}

static void round_task(void *context, int task, int worker) {
    const run_of *run = context;
    (void)worker;
    const float *x = run->source + (size_t)task * run->width;
    if (run->weight) {
        float *y = run->target + (size_t)task * run->width;
        je_norm(y, x, run->weight, run->width, run->model->epsilon);
        x = y;
    }
    je_round_row(&run->rows, task, x, run->width);
}

static void norm_task(void *context, int task, int worker) {
    const run_of *run = context;
    (void)worker;
    const size_t at = (size_t)task * run->width;
    je_norm(run->target + at, run->x + at, run->model->norm, run->width, run->model->epsilon);
}

/* A row's worth of work is not worth another thread's attention where rows are few. */
static void each_row(je_decoder *decoder, run_of *run, je_task task) {
    if (run->tokens > JE_FEW)
        je_pool_run(decoder->pool, task, run, run->tokens);
    else
        for (int i = 0; i < run->tokens; i++) task(run, i, 0);
}

/* The input of the next products: normed where there is a weight for that. */
static void round_rows(je_decoder *decoder, run_of *run, const float *x, const float *weight, int width) {
    run->source = x;
    run->weight = weight;
    run->target = run->normed;
    run->width = width;
    run->rows.blocks = (width + JE_BLOCK - 1) / JE_BLOCK;
    each_row(decoder, run, round_task);
}

static void multiply(je_decoder *decoder, run_of *run, const je_matrix *a, const je_matrix *b,
                     const je_matrix *c, float *y, size_t stride, je_finish finish) {
    run->matrices[0] = a;
    run->matrices[1] = b;
    run->matrices[2] = c;
    run->y = y;
    run->stride = stride;
    run->finish = finish;
    const int count = num_tasks(run, a) + (b ? num_tasks(run, b) : 0) + (c ? num_tasks(run, c) : 0);
    je_pool_run(decoder->pool, product_task, run, count);
}

static void run_layer(je_decoder *decoder, run_of *run) {
    const je_model *model = run->model;
    const je_layer *layer = run->layer;
    const int queries = model->num_heads * model->head_dim;
    const size_t stride = (size_t)(queries + 2 * model->num_kv_heads * model->head_dim);
    round_rows(decoder, run, run->x, layer->attention_norm, model->width);
    multiply(decoder, run, &layer->q, &layer->k, &layer->v, run->qkv, stride, JE_STORE);
    je_pool_run(decoder->pool, attention_task, run, run->attention.rows * model->num_kv_heads);
    round_rows(decoder, run, run->mixed, NULL, queries);
    multiply(decoder, run, &layer->o, NULL, NULL, run->x, (size_t)model->width, JE_ADD);
    round_rows(decoder, run, run->x, layer->mlp_norm, model->width);
    je_pool_run(decoder->pool, gate_task, run, num_tasks(run, &layer->up));
    round_rows(decoder, run, run->gated, NULL, run->inner);
    multiply(decoder, run, &layer->down, NULL, NULL, run->x, (size_t)model->width, JE_ADD);
}

/* The next part of the decoder's memory, or its size while there is none. */
static void *take(char *memory, size_t *used, size_t bytes) {
    void *found = memory ? memory + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return found;
}

static size_t lay_out(run_of *run, char *memory, size_t longest) {
    const je_model *model = run->model;
    const size_t tokens = (size_t)run->tokens, width = (size_t)model->width, inner = (size_t)run->inner;
    const size_t queries = (size_t)model->num_heads * model->head_dim;
    const size_t shared = (size_t)model->num_kv_heads * model->head_dim;
    const size_t widest = width > inner ? (width > queries ? width : queries)
                                        : (inner > queries ? inner : queries);
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
    run->rows.offsets = take(memory, &used, tokens * blocks * sizeof(float));
    run->scratch_bytes = ((panel > attention ? panel : attention) + 63) / 64 * 64;
    run->scratch = take(memory, &used, run->scratch_bytes * (size_t)run->num_threads);
    return used;
}

int je_decoder_run(je_decoder *decoder, int32_t rows, int32_t time, const float *embeds,
                   const int64_t *positions, const int64_t *lengths, int32_t cache_length,
                   int8_t *const *caches, float *hidden) {
    const je_model *model = decoder->model;
    run_of run = {.model = model, .tokens = rows * time, .inner = decoder->inner,
                  .num_threads = decoder->num_threads};
    run.rows.count = run.tokens;
    run.attention = (je_attention){.model = model, .rows = rows, .time = time, .cache_length = cache_length,
                                   .positions = positions, .lengths = lengths};
    int64_t longest = time;
    for (int row = 0; row < rows; row++) longest = lengths[row] > longest ? lengths[row] : longest;
    const size_t needed = lay_out(&run, NULL, (size_t)longest);
    if (needed > decoder->num_bytes) {
        void *memory = aligned_alloc(64, needed);
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
        run_layer(decoder, &run);
    }
    run.target = hidden;
    run.width = model->width;
    each_row(decoder, &run, norm_task);
    return 0;
}
