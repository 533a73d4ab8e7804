#include "convolution.h"

#include <math.h>
#include <string.h>

#define EPSILON 1e-6 /* of group norms */

/* The arguments of the tasks, one piece for each row of an image. */
typedef struct {
  const je_convolver* convolver;
  const je_image* image;
  float* moments; /* (H, 2, C) */
  const float *scale, *shift;
  int has_silu, bordered_width;
} image_run;

int je_is_convolution(const je_matrix* matrix, int side, int channels) {
  const int filled = (channels + matrix->block - 1) / matrix->block * matrix->block;
  return matrix->bits == 8 && matrix->inputs == side * side * filled;
}

static void moments_task(void* context, je_piece piece) {
  const image_run* run = context;
  const int channels = run->image->channels, width = run->image->width;
  float* sums = run->moments + (size_t)piece.number * 2 * channels;
  memset(sums, 0, 2 * (size_t)channels * sizeof *sums);
  run->convolver->kernels->add_moments(sums, run->image->pixels + (size_t)piece.number * width * channels, width,
                                       channels);
}

/* Turn the moments of all rows into a scale and a shift for each channel. Rows are added in order, in double. */
static void find_scales(const image_run* run, const je_norm* norm, float* scale, float* shift) {
  const int channels = run->image->channels, groups = run->convolver->num_groups, size = channels / groups;
  const double count = (double)run->image->height * run->image->width * size;
  for (int group = 0; group < groups; group++) {
    double sum = 0, squares = 0;
    for (int row = 0; row < run->image->height; row++)
      for (int c = group * size; c < (group + 1) * size; c++) {
        sum += run->moments[(size_t)row * 2 * channels + c];
        squares += run->moments[((size_t)row * 2 + 1) * channels + c];
      }
    const double mean = sum / count, variance = squares / count - mean * mean;
    const float factor = (float)(1 / sqrt((variance > 0 ? variance : 0) + EPSILON));
    for (int c = group * size; c < (group + 1) * size; c++) {
      scale[c] = norm->weight[c] * factor;
      shift[c] = norm->bias[c] - (float)mean * scale[c];
    }
  }
}

static void quantize_task(void* context, je_piece piece) {
  const image_run* run = context;
  const je_kernels* kernels = run->convolver->kernels;
  const int channels = run->image->channels;
  float* scaled = run->convolver->pixels + (size_t)piece.worker * channels;
  const float* x = run->image->pixels + (size_t)piece.number * run->image->width * channels;
  const int first = (piece.number + 1) * run->bordered_width + 1;
  for (int column = 0; column < run->image->width; column++, x += channels) {
    if (run->scale) kernels->scale_channels(scaled, x, run->scale, run->shift, channels, run->has_silu);
    kernels->quantize_row(&run->convolver->quantized, first + column, run->scale ? scaled : x, channels);
  }
}

static void clear_pixel(const je_rows* rows, int at) {
  for (int b = 0; b < rows->blocks; b++) {
    const size_t z = (size_t)b * rows->count + at;
    memset(rows->quantized + z * rows->block, 0, (size_t)rows->block);
    rows->scales[z] = 0;
    rows->sums[z] = 0;
  }
}

static void clear_border(const je_rows* rows, int height, int width) {
  const int line = width + 2;
  for (int x = 0; x < line; x++) {
    clear_pixel(rows, x);
    clear_pixel(rows, (height + 1) * line + x);
  }
  for (int y = 1; y <= height; y++) {
    clear_pixel(rows, y * line);
    clear_pixel(rows, y * line + line - 1);
  }
}

void je_quantize_image(je_convolver* convolver, const je_image* image, const je_matrix* matrix, const je_norm* norm,
                       int has_silu) {
  const int channels = image->channels;
  float *scale = convolver->moments, *shift = scale + channels;
  je_rows* rows = &convolver->quantized;
  rows->count = (int)je_bordered(image->height, image->width);
  rows->block = matrix->block;
  rows->blocks = (channels + matrix->block - 1) / matrix->block;
  image_run run = {.convolver = convolver,
                   .image = image,
                   .moments = convolver->moments + 2 * (size_t)channels,
                   .scale = norm ? scale : NULL,
                   .shift = shift,
                   .has_silu = has_silu,
                   .bordered_width = image->width + 2};
  clear_border(rows, image->height, image->width);
  if (norm) {
    je_pool_run(convolver->pool, moments_task, &run, image->height);
    find_scales(&run, norm, scale, shift);
  }
  je_pool_run(convolver->pool, quantize_task, &run, image->height);
}

void je_convolve(je_convolver* convolver, const je_matrix* matrix, je_window window, int height, int width, float* y,
                 size_t stride, size_t y_step, je_epilogue epilogue) {
  const int line = width + 2, stored = (int)je_bordered(height, width), taps = window.side * window.side;
  je_rows rows = convolver->quantized;
  for (int tap = 0; tap < taps; tap++) {
    const int row = tap / window.side + window.row + 1, column = tap % window.side + window.column + 1;
    for (int b = 0; b < rows.blocks; b++)
      convolver->starts[tap * rows.blocks + b] = b * stored + row * line + column;
  }
  rows.blocks *= taps;
  rows.starts = convolver->starts;
  rows.count = width;
  const je_product product = {.kernels = convolver->kernels,
                              .matrix = matrix,
                              .rows = rows,
                              .repeats = height,
                              .step = line,
                              .y = y,
                              .stride = stride,
                              .y_step = y_step,
                              .epilogue = epilogue};
  je_product_run(convolver->pool, &product);
}
