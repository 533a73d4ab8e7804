#include <string.h>

#include "image_decoder.h"
#include "image_decoder_steps.h"
#include "system.h"

/* What one call of je_image_decoder_run reads and writes. */
typedef struct {
  const je_image_decoder* decoder;
  je_convolver convolver;
  je_image x;
  float *hidden, *qkv; /* between two convolutions; queries, keys and values */
  je_full_attention attention;
  char* scratch; /* scratch_bytes for each worker */
  size_t scratch_bytes;
} decoder_run;

/* The most that a buffer must hold, in numbers; scratch in bytes. */
typedef struct {
  size_t image, hidden, qkv, quantized, quantized_blocks, moments, channels, blocks, scratch;
} decoder_sizes;

static void grow(size_t* most, size_t size) {
  if (size > *most) *most = size;
}

/* Make room for a convolution of an image of side x side, by windows of window x window. */
static void grow_for(decoder_sizes* most, const je_matrix* matrix, int window, int side, int channels) {
  const size_t blocks = je_blocks(matrix) / (size_t)(window * window), pixels = je_bordered(side, side);
  grow(&most->quantized, pixels * blocks * (size_t)matrix->block);
  grow(&most->quantized_blocks, pixels * blocks);
  grow(&most->blocks, je_blocks(matrix));
  grow(&most->channels, (size_t)channels);
  grow(&most->moments, 2 * (size_t)channels * ((size_t)side + 1));
}

static je_full_attention attention_of(int side, int channels) {
  return (je_full_attention){.num_slots = side * side, .num_heads = 1, .head_dim = channels};
}

/* Make room for a step, and return the side of its result. */
static int grow_for_step(decoder_sizes* most, const decoder_step* step, int side) {
  const size_t cells = (size_t)side * side;
  if (step->kind == DOUBLE) {
    for (int i = 0; i < 4; i++) grow_for(most, &step->matrices[i], 2, side, step->inputs);
    side *= 2;
  } else if (step->kind == ATTENTION) {
    const je_full_attention attention = attention_of(side, step->inputs);
    for (int i = 0; i < 4; i++) grow_for(most, &step->matrices[i], 1, side, step->inputs);
    grow(&most->qkv, 3 * cells * step->inputs);
    grow(&most->hidden, cells * step->inputs);
    grow(&most->scratch, (je_full_attention_bytes(&attention) + 63) / 64 * 64);
  } else {
    grow_for(most, &step->matrices[0], 3, side, step->inputs);
    grow_for(most, &step->matrices[1], 3, side, step->outputs);
    if (step->inputs != step->outputs) grow_for(most, &step->matrices[2], 1, side, step->inputs);
    grow(&most->hidden, cells * step->outputs);
  }
  grow(&most->image, (size_t)side * side * step->outputs);
  return side;
}

static decoder_sizes sizes_of(const je_image_decoder* decoder) {
  decoder_sizes most = {0};
  int side = decoder->sizes.side, channels = decoder->first.outputs;
  grow_for(&most, &decoder->first, 3, side, decoder->first_channels);
  grow(&most.image, (size_t)side * side * (channels > decoder->first_channels ? channels : decoder->first_channels));
  for (int i = 0; i < decoder->num_steps; i++) side = grow_for_step(&most, &decoder->steps[i], side);
  if (decoder->num_steps) channels = decoder->steps[decoder->num_steps - 1].outputs;
  grow_for(&most, &decoder->last, 3, side, channels);
  return most;
}

/* Place all buffers in memory and return their total size in bytes. If memory is NULL, only count. */
static size_t lay_out(decoder_run* run, const decoder_sizes* most, char* memory) {
  const size_t workers = (size_t)je_pool_size(run->decoder->pool);
  je_convolver* convolver = &run->convolver;
  size_t used = 0;
  run->x.pixels = je_reserve(memory, &used, most->image * sizeof(float));
  run->hidden = je_reserve(memory, &used, most->hidden * sizeof(float));
  run->qkv = je_reserve(memory, &used, most->qkv * sizeof(float));
  convolver->quantized.quantized = je_reserve(memory, &used, most->quantized);
  convolver->quantized.scales = je_reserve(memory, &used, most->quantized_blocks * sizeof(float));
  convolver->quantized.sums = je_reserve(memory, &used, most->quantized_blocks * sizeof(int32_t));
  convolver->starts = je_reserve(memory, &used, most->blocks * sizeof(int32_t));
  convolver->moments = je_reserve(memory, &used, most->moments * sizeof(float));
  convolver->pixels = je_reserve(memory, &used, workers * most->channels * sizeof(float));
  run->scratch_bytes = most->scratch;
  run->scratch = je_reserve(memory, &used, workers * most->scratch);
  return used;
}

/* Convolve the image that was quantized last, of the same height and width as the run's, into y. That may be the place of the
 * image itself: only its quantized copy is read. */
static void convolve(decoder_run* run, const je_matrix* matrix, je_window window, float* y, size_t stride,
                     je_epilogue epilogue) {
  const size_t y_step = (size_t)run->x.width * stride;
  je_convolve(&run->convolver, matrix, window, run->x.height, run->x.width, y, stride, y_step, epilogue);
}

static void run_residual(decoder_run* run, const decoder_step* step) {
  const je_image hidden = {run->x.height, run->x.width, step->outputs, run->hidden};
  const size_t outputs = (size_t)step->outputs;
  const je_matrix* m = step->matrices;
  je_quantize_image(&run->convolver, &run->x, &m[0], &step->norms[0], 1);
  convolve(run, &m[0], JE_WINDOW_3, run->hidden, outputs, JE_STORE);
  if (step->inputs != step->outputs) {
    je_quantize_image(&run->convolver, &run->x, &m[2], NULL, 0);
    convolve(run, &m[2], JE_WINDOW_1, run->x.pixels, outputs, JE_STORE);
  }
  je_quantize_image(&run->convolver, &hidden, &m[1], &step->norms[1], 1);
  convolve(run, &m[1], JE_WINDOW_3, run->x.pixels, outputs, JE_ADD);
}

static void attention_task(void* context, je_piece piece) {
  const decoder_run* run = context;
  float* scratch = (float*)(run->scratch + piece.worker * run->scratch_bytes);
  run->convolver.kernels->attend_all(&run->attention, piece.number, scratch);
}

static void run_attention(decoder_run* run, const decoder_step* step) {
  const int channels = step->inputs;
  const je_image mixed = {run->x.height, run->x.width, channels, run->hidden};
  for (int i = 0; i < 3; i++) { /* all three have the same input, but maybe not the same blocks */
    je_quantize_image(&run->convolver, &run->x, &step->matrices[i], &step->norms[0], 0);
    convolve(run, &step->matrices[i], JE_WINDOW_1, run->qkv + i * channels, 3 * (size_t)channels, JE_STORE);
  }
  run->attention = attention_of(run->x.width, channels);
  run->attention.qkv = run->qkv;
  run->attention.attended = run->hidden;
  je_pool_run(run->decoder->pool, attention_task, run, run->attention.num_heads);
  je_quantize_image(&run->convolver, &mixed, &step->matrices[3], NULL, 0);
  convolve(run, &step->matrices[3], JE_WINDOW_1, run->x.pixels, (size_t)channels, JE_ADD);
}

static void run_double(decoder_run* run, const decoder_step* step) {
  const size_t channels = (size_t)step->outputs, line = 2 * (size_t)run->x.width * channels;
  je_quantize_image(&run->convolver, &run->x, &step->matrices[0], NULL, 0);
  for (int i = 0; i < 4; i++) { /* windows of even rows begin a pixel earlier, of even columns too */
    const int row = i / 2, column = i % 2;
    je_convolve(&run->convolver, &step->matrices[i], (je_window){2, row - 1, column - 1}, run->x.height, run->x.width,
                run->x.pixels + row * line + column * channels, 2 * channels, 2 * line, JE_STORE);
  }
  run->x.height *= 2;
  run->x.width *= 2;
}

/* Make the image of the cells, by the matrix that a cell is multiplied with. */
static void take_cells(decoder_run* run, const float* cells) {
  const je_image_decoder* decoder = run->decoder;
  const int inputs = decoder->sizes.cell_channels, side = decoder->sizes.side, channels = decoder->first_channels;
  run->x = (je_image){side, side, channels, run->x.pixels};
  for (int cell = 0; cell < side * side; cell++, cells += inputs) {
    float* y = run->x.pixels + (size_t)cell * channels;
    memcpy(y, decoder->cell_bias, (size_t)channels * sizeof *y);
    for (int i = 0; i < inputs; i++)
      for (int c = 0; c < channels; c++) y[c] += cells[i] * decoder->cell_weight[(size_t)i * channels + c];
  }
}

/* Run the steps. Return 1 if *stop became nonzero. */
static int run_steps(decoder_run* run, const int* stop) {
  static void (*const kRun[])(decoder_run*, const decoder_step*) = {run_residual, run_attention, run_double};
  const je_image_decoder* decoder = run->decoder;
  je_quantize_image(&run->convolver, &run->x, &decoder->first, NULL, 0);
  convolve(run, &decoder->first, JE_WINDOW_3, run->x.pixels, (size_t)decoder->first.outputs, JE_STORE);
  run->x.channels = decoder->first.outputs;
  for (int i = 0; i < decoder->num_steps; i++) {
    if (je_is_stopped(stop)) return 1;
    kRun[decoder->steps[i].kind](run, &decoder->steps[i]);
    run->x.channels = decoder->steps[i].outputs;
  }
  je_quantize_image(&run->convolver, &run->x, &decoder->last, &decoder->last_norm, 1);
  convolve(run, &decoder->last, JE_WINDOW_3, run->x.pixels, 3, JE_STORE);
  return 0;
}

int je_image_decoder_run(je_image_decoder* decoder, const float* cells, float* pixels, const int* stop) {
  const decoder_sizes most = sizes_of(decoder);
  decoder_run run = {.decoder = decoder};
  char* memory = je_allocate_aligned(lay_out(&run, &most, NULL));
  if (!memory) return -1;
  lay_out(&run, &most, memory);
  run.convolver.kernels = je_kernels_in_use();
  run.convolver.pool = decoder->pool;
  run.convolver.num_groups = decoder->sizes.num_groups;
  take_cells(&run, cells);
  const int is_stopped = run_steps(&run, stop);
  const size_t count = (size_t)run.x.height * run.x.width;
  for (int channel = 0; channel < 3 && !is_stopped; channel++)
    for (size_t i = 0; i < count; i++) pixels[channel * count + i] = run.x.pixels[3 * i + channel];
  je_free_aligned(memory);
  return is_stopped;
}
