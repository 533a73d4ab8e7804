#include "encoder.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "products.h"
#include "system.h"

#define MOST_LAYERS 256
#define MOST_WIDTH 16384 /* times 256 x 256 patches, it fits 31 bits */

typedef struct {
  const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias;
  je_matrix qkv, proj, fc1, fc2;
} encoder_layer;

struct je_encoder {
  je_encoder_sizes sizes;
  je_pool* pool;
  int num_layers, width, num_patches;
  je_matrix patches;
  const float *positions, *norm_weight, *norm_bias;
  encoder_layer layers[MOST_LAYERS];
};

/* What one call of je_encoder_run reads and writes. */
typedef struct {
  const je_encoder* encoder;
  const je_kernels* kernels;
  je_rows rows;
  float *x, *wide, *attended, *normed; /* (N, C or more) */
  je_full_attention attention;
  char* scratch; /* scratch_bytes for each worker */
  size_t scratch_bytes;
  float* features;
} encoder_run;

/* Write a name into a buffer of 64 bytes and return it. */
static const char* named(char* buffer, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, 64, format, arguments);
  va_end(arguments);
  return buffer;
}

/* Find a norm's weight and bias. Return 0 if one is missing. */
static int find_norm(const je_weights* weights, const char* name, int width, const float** weight, const float** bias) {
  char buffer[64];
  *weight = weights->floats(weights->context, named(buffer, "%s.weight", name), width);
  *bias = *weight ? weights->floats(weights->context, named(buffer, "%s.bias", name), width) : NULL;
  return *bias != NULL;
}

static int find_layer(const je_weights* weights, int index, int width, encoder_layer* layer) {
  char buffer[64];
  void* context = weights->context;
  return find_norm(weights, named(buffer, "blocks.%d.norm1", index), width, &layer->norm1_weight, &layer->norm1_bias) &&
         find_norm(weights, named(buffer, "blocks.%d.norm2", index), width, &layer->norm2_weight, &layer->norm2_bias) &&
         weights->matrix(context, named(buffer, "blocks.%d.attn.qkv", index), width, 3 * width, &layer->qkv) &&
         weights->matrix(context, named(buffer, "blocks.%d.attn.proj", index), width, width, &layer->proj) &&
         weights->matrix(context, named(buffer, "blocks.%d.mlp.fc1", index), width, 0, &layer->fc1) &&
         weights->matrix(context, named(buffer, "blocks.%d.mlp.fc2", index), layer->fc1.outputs, width, &layer->fc2);
}

static int find_weights(je_encoder* encoder, const je_weights* weights) {
  const je_encoder_sizes* sizes = &encoder->sizes;
  const int patch_inputs = 3 * sizes->patch_size * sizes->patch_size;
  void* context = weights->context;
  char buffer[64];
  if (!weights->matrix(context, "patch_embed.proj", patch_inputs, 0, &encoder->patches)) return 0;
  const int width = encoder->width = encoder->patches.outputs;
  if (sizes->num_heads < 1 || width % sizes->num_heads || width / sizes->num_heads % 16 || width > MOST_WIDTH) return 0;
  encoder->positions = weights->floats(context, "pos_embed", encoder->num_patches * width);
  if (!encoder->positions || !find_norm(weights, "norm", width, &encoder->norm_weight, &encoder->norm_bias)) return 0;
  while (encoder->num_layers < MOST_LAYERS &&
         weights->count(context, named(buffer, "blocks.%d.norm1.weight", encoder->num_layers)) > 0) {
    if (!find_layer(weights, encoder->num_layers, width, &encoder->layers[encoder->num_layers])) return 0;
    encoder->num_layers++;
  }
  return 1;
}

int je_encoder_open(je_encoder_sizes sizes, const je_weights* weights, je_pool* pool, je_encoder** opened) {
  je_encoder* encoder = *opened = calloc(1, sizeof *encoder);
  if (!encoder) return JE_NO_MEMORY;
  const int side = sizes.patch_size > 0 ? sizes.image_size / sizes.patch_size : 0;
  encoder->sizes = sizes;
  encoder->pool = pool;
  encoder->num_patches = side * side;
  if (side > 0 && side <= 256 && find_weights(encoder, weights)) return JE_OPENED;
  je_encoder_close(encoder);
  *opened = NULL;
  return JE_NO_FIT;
}

int32_t je_encoder_width(const je_encoder* encoder) { return encoder->width; }
int32_t je_encoder_num_patches(const je_encoder* encoder) { return encoder->num_patches; }

void je_encoder_close(je_encoder* encoder) { free(encoder); }

/* Place all buffers in memory and return their total size in bytes. If memory is NULL, only count. */
static size_t lay_out(encoder_run* run, char* memory) {
  const je_encoder* encoder = run->encoder;
  const size_t count = (size_t)encoder->num_patches, width = (size_t)encoder->width;
  size_t used = 0, widest = width > (size_t)encoder->patches.inputs ? width : (size_t)encoder->patches.inputs;
  size_t wide = 3 * width > widest ? 3 * width : widest;
  for (int i = 0; i < encoder->num_layers; i++) {
    const size_t inner = (size_t)encoder->layers[i].fc1.outputs;
    widest = inner > widest ? inner : widest;
    wide = inner > wide ? inner : wide;
  }
  run->x = je_reserve(memory, &used, count * width * sizeof(float));
  run->normed = je_reserve(memory, &used, count * width * sizeof(float));
  run->attended = je_reserve(memory, &used, count * width * sizeof(float));
  run->wide = je_reserve(memory, &used, count * wide * sizeof(float));
  je_reserve_rows(&run->rows, memory, &used, count, widest / 32 + JE_MAX_BLOCK / 32, 32);
  run->attention = (je_full_attention){.num_slots = (int)count,
                                       .num_heads = encoder->sizes.num_heads,
                                       .head_dim = encoder->width / encoder->sizes.num_heads,
                                       .qkv = run->wide,
                                       .attended = run->attended};
  run->scratch_bytes = (je_full_attention_bytes(&run->attention) + 63) / 64 * 64;
  run->scratch = je_reserve(memory, &used, run->scratch_bytes * (size_t)je_pool_size(encoder->pool));
  return used;
}

/* Multiply rows x, after a LayerNorm if norm is not NULL, with a matrix. */
static void multiply(encoder_run* run, const float* x, const float* norm, const float* bias, const je_matrix* matrix,
                     float* y, je_epilogue epilogue) {
  run->rows.block = matrix->block;
  run->rows.blocks = (int)je_blocks(matrix);
  const je_quantization quantization = {.kernels = run->kernels,
                                        .rows = run->rows,
                                        .x = x,
                                        .weight = norm,
                                        .bias = bias,
                                        .normed = run->normed,
                                        .width = matrix->inputs,
                                        .epsilon = run->encoder->sizes.epsilon};
  je_quantize(run->encoder->pool, &quantization);
  const je_product product = {.kernels = run->kernels,
                              .matrix = matrix,
                              .rows = run->rows,
                              .repeats = 1,
                              .y = y,
                              .stride = (size_t)matrix->outputs,
                              .epilogue = epilogue};
  je_product_run(run->encoder->pool, &product);
}

/* Write the patches (N, 3 P P) of pixels (3, S, S). */
static void cut_patches(float* patches, const float* pixels, const je_encoder_sizes* sizes) {
  const int side = sizes->image_size / sizes->patch_size, patch = sizes->patch_size;
  for (int number = 0; number < side * side; number++)
    for (int channel = 0; channel < 3; channel++)
      for (int row = 0; row < patch; row++, patches += patch) {
        const size_t line = (size_t)channel * sizes->image_size + number / side * patch + row;
        memcpy(patches, pixels + line * sizes->image_size + number % side * patch, (size_t)patch * sizeof(float));
      }
}

static void attention_task(void* context, je_piece piece) {
  const encoder_run* run = context;
  float* scratch = (float*)(run->scratch + piece.worker * run->scratch_bytes);
  run->kernels->attend_all(&run->attention, piece.number, scratch);
}

static void norm_task(void* context, je_piece piece) {
  const encoder_run* run = context;
  const je_encoder* encoder = run->encoder;
  const size_t at = (size_t)piece.number * encoder->width;
  run->kernels->layer_norm(run->features + at, run->x + at, encoder->norm_weight, encoder->norm_bias, encoder->width,
                           encoder->sizes.epsilon);
}

int je_encoder_run(je_encoder* encoder, const float* pixels, float* features, const int* stop) {
  encoder_run run = {.encoder = encoder, .kernels = je_kernels_in_use(), .features = features};
  run.rows.count = encoder->num_patches;
  char* memory = je_allocate_aligned(lay_out(&run, NULL));
  if (!memory) return -1;
  lay_out(&run, memory);
  cut_patches(run.wide, pixels, &encoder->sizes);
  memcpy(run.x, encoder->positions, (size_t)encoder->num_patches * encoder->width * sizeof(float));
  multiply(&run, run.wide, NULL, NULL, &encoder->patches, run.x, JE_ADD);
  int is_stopped = 0;
  for (int i = 0; i < encoder->num_layers && !(is_stopped = je_is_stopped(stop)); i++) {
    const encoder_layer* layer = &encoder->layers[i];
    multiply(&run, run.x, layer->norm1_weight, layer->norm1_bias, &layer->qkv, run.wide, JE_STORE);
    je_pool_run(encoder->pool, attention_task, &run, encoder->sizes.num_heads);
    multiply(&run, run.attended, NULL, NULL, &layer->proj, run.x, JE_ADD);
    multiply(&run, run.x, layer->norm2_weight, layer->norm2_bias, &layer->fc1, run.wide, JE_GELU);
    multiply(&run, run.wide, NULL, NULL, &layer->fc2, run.x, JE_ADD);
  }
  if (!is_stopped) je_pool_run(encoder->pool, norm_task, &run, encoder->num_patches);
  je_free_aligned(memory);
  return is_stopped;
}
