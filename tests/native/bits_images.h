/* A vision encoder and an image decoder with made-up weights, for bits.c. */

#include "../../native/cpu/encoder.h"
#include "../../native/cpu/image_decoder.h"

/* --- weights by name --- */

#define BLOCKS 2 /* layers of the encoder */
#define WIDTH 128
#define MLP 300
#define PATCH 8
#define SIDE 40 /* of the image: 25 patches, two groups of queries and a rest */

/* A convolution or, with 0 taps, a matrix by the end of its name. */
typedef struct {
  const char* name;
  int taps, channels, outputs;
} shape_of;

static const shape_of kShapes[] = {
    {"patch_embed.proj", 0, 3 * PATCH * PATCH, WIDTH},
    {"attn.qkv", 0, WIDTH, 3 * WIDTH},
    {"attn.proj", 0, WIDTH, WIDTH},
    {"mlp.fc1", 0, WIDTH, MLP},
    {"mlp.fc2", 0, MLP, WIDTH},
    {"first", 9, 20, 32},
    {"steps.0.conv1", 9, 32, 48},
    {"steps.0.conv2", 9, 48, 48},
    {"steps.0.shortcut", 1, 32, 48},
    {"steps.1.q", 1, 48, 48},
    {"steps.1.k", 1, 48, 48},
    {"steps.1.v", 1, 48, 48},
    {"steps.1.proj_out", 1, 48, 48},
    {"steps.2.double.even_even", 4, 48, 48},
    {"steps.2.double.even_odd", 4, 48, 48},
    {"steps.2.double.odd_even", 4, 48, 48},
    {"steps.2.double.odd_odd", 4, 48, 48},
    {"steps.3.conv1", 9, 48, 128},
    {"steps.3.conv2", 9, 128, 128},
    {"steps.3.shortcut", 1, 48, 128},
    {"last", 9, 128, 3},
};

/* Return what a name ends with; NULL if that is not there. */
static const shape_of* shape_named(const char* name) {
  for (size_t i = 0; i < sizeof kShapes / sizeof *kShapes; i++) {
    const size_t length = strlen(name), own = strlen(kShapes[i].name);
    if (length >= own && strcmp(name + length - own, kShapes[i].name) == 0) return &kShapes[i];
  }
  return NULL;
}

static int64_t count_of(void* context, const char* name) {
  char layer[64];
  int block;
  (void)context;
  if (strcmp(name, "cells.bias") == 0) return 20;
  if (sscanf(name, "blocks.%d.", &block) == 1) return block < BLOCKS;
  snprintf(layer, sizeof layer, "%.*s", (int)(strlen(name) - strlen(".weight.tiles")), name);
  return shape_named(layer) != NULL;
}

/* Norms multiply by about 1; all else is near 0. */
static const float* floats_of(void* context, const char* name, int32_t count) {
  (void)context;
  const int is_scale = strstr(name, "norm") && strstr(name, ".weight");
  return made((size_t)count, is_scale ? ONE / 2 : -ONE, ONE);
}

static int matrix_of(void* context, const char* layer, int32_t inputs, int32_t outputs, je_matrix* found) {
  const shape_of* shape = shape_named(layer);
  (void)context;
  if (!shape) return 0;
  const int block = shape->channels % 128 ? 32 : 128;
  const int filled = (shape->channels + block - 1) / block * block;
  const int own_inputs = shape->taps ? shape->taps * filled : shape->channels;
  *found = matrix_in_blocks(shape->outputs, own_inputs, 8, block, 1);
  return (!inputs || inputs == found->inputs) && (!outputs || outputs == found->outputs);
}

/* --- cases --- */

static void print_hash(const float* x, size_t count) {
  check_finite(x, count);
  printf(" %016llx\n", (unsigned long long)hashed(UINT64_C(14695981039346656037), x, count * sizeof *x));
  free_all();
}

static void run_encoder(je_pool* pool) {
  const je_weights weights = {NULL, count_of, floats_of, matrix_of};
  state = 3000;
  je_encoder* encoder;
  if (je_encoder_open((je_encoder_sizes){SIDE, PATCH, 2, 1e-6f}, &weights, pool, &encoder) != JE_OPENED) exit(1);
  const size_t count = (size_t)je_encoder_num_patches(encoder) * je_encoder_width(encoder);
  float *pixels = made(3 * SIDE * SIDE, -ONE, ONE), *features = room(count * sizeof *features);
  if (je_encoder_run(encoder, pixels, features, NULL) != 0) exit(1);
  je_encoder_close(encoder);
  print_hash(features, count);
}

static void run_image_decoder(je_pool* pool) {
  const je_weights weights = {NULL, count_of, floats_of, matrix_of};
  state = 4000;
  je_image_decoder* decoder;
  if (je_image_decoder_open((je_image_decoder_sizes){8, 7, 4}, &weights, pool, &decoder) != JE_OPENED) exit(1);
  const size_t side = (size_t)je_image_decoder_image_size(decoder);
  float *cells = made(8 * 7 * 7, -ONE, ONE), *pixels = room(3 * side * side * sizeof *pixels);
  if (je_image_decoder_run(decoder, cells, pixels, NULL) != 0) exit(1);
  je_image_decoder_close(decoder);
  print_hash(pixels, 3 * side * side);
}
