#include "image_decoder.h"

#include <stdio.h>
#include <stdlib.h>

#include "image_decoder_steps.h"

#define MOST_CHANNELS 16384
#define MOST_PIXELS 4096 /* along a side */
#define MOST_ATTENDED 128 /* cells along a side of attention, whose time grows with their fourth power */

static int find_norm(const je_weights* weights, const char* name, int channels, je_norm* norm) {
  char buffer[64];
  snprintf(buffer, sizeof buffer, "%s.weight", name);
  norm->weight = weights->floats(weights->context, buffer, channels);
  snprintf(buffer, sizeof buffer, "%s.bias", name);
  norm->bias = norm->weight ? weights->floats(weights->context, buffer, channels) : NULL;
  return norm->bias != NULL;
}

/* Find a convolution of images of so many channels. outputs 0: as many as there are. */
static int find_convolution(const je_weights* weights, const char* name, int side, int channels, int outputs,
                            je_matrix* found) {
  return weights->matrix(weights->context, name, 0, outputs, found) && je_is_convolution(found, side, channels);
}

/* Find the parts of a step; their names begin with its number. Return 0 if one is missing. */
static int find_step(const je_weights* weights, int number, decoder_step* step, int channels) {
  static const char* const kAttention[] = {"q", "k", "v", "proj_out"};
  static const char* const kPhases[] = {"double.even_even", "double.even_odd", "double.odd_even", "double.odd_odd"};
  char name[32];
  je_matrix* m = step->matrices;
#define NAMED(part) (snprintf(name, sizeof name, "steps.%d.%s", number, part), name)
  step->inputs = step->outputs = channels;
  if (step->kind == DOUBLE) {
    for (int i = 0; i < 4; i++)
      if (!find_convolution(weights, NAMED(kPhases[i]), 2, channels, channels, &m[i]) || m[i].block != m[0].block)
        return 0; /* the image is quantized once for all four */
    return 1;
  }
  if (step->kind == ATTENTION) {
    if (!find_norm(weights, NAMED("norm"), channels, &step->norms[0])) return 0;
    for (int i = 0; i < 4; i++)
      if (!find_convolution(weights, NAMED(kAttention[i]), 1, channels, channels, &m[i])) return 0;
    return 1;
  }
  if (!find_norm(weights, NAMED("norm1"), channels, &step->norms[0]) ||
      !find_convolution(weights, NAMED("conv1"), 3, channels, 0, &m[0]))
    return 0;
  step->outputs = m[0].outputs;
  return find_norm(weights, NAMED("norm2"), step->outputs, &step->norms[1]) &&
         find_convolution(weights, NAMED("conv2"), 3, step->outputs, step->outputs, &m[1]) &&
         (step->outputs == channels ||
          find_convolution(weights, NAMED("shortcut"), 1, channels, step->outputs, &m[2]));
#undef NAMED
}

/* Set the kind of a step by which tensors there are. Return 0 if there is no such step. */
static int find_kind(const je_weights* weights, int number, step_kind* kind) {
  static const char* const kNames[] = {"conv1", "q", "double.even_even"}; /* in the order of the kinds */
  char name[64];
  for (int i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "steps.%d.%s.weight.tiles", number, kNames[i]);
    *kind = (step_kind)i;
    if (weights->count(weights->context, name) > 0) return 1;
  }
  return 0;
}

/* Return 1 if the kernels take images of so many channels: whole vectors and groups, and as many numbers as fit 31 bits. */
static int fits(const je_image_decoder* decoder, int channels) {
  const int side = decoder->image_size;
  return channels % 16 == 0 && channels % decoder->sizes.num_groups == 0 && channels <= MOST_CHANNELS &&
         je_bordered(side, side) * (size_t)(channels + JE_MAX_BLOCK) <= INT32_MAX;
}

static int find_weights(je_image_decoder* decoder, const je_weights* weights) {
  je_matrix* first = &decoder->first;
  const int cells = decoder->sizes.cell_channels;
  if (!weights->matrix(weights->context, "first", 0, 0, first)) return 0;
  const int64_t count = weights->count(weights->context, "cells.bias");
  if (count < 1 || count > MOST_CHANNELS || !je_is_convolution(first, 3, (int)count)) return 0;
  decoder->first_channels = (int)count;
  decoder->cell_bias = weights->floats(weights->context, "cells.bias", (int)count);
  decoder->cell_weight = weights->floats(weights->context, "cells.weight", cells * (int)count);
  if (!decoder->cell_bias || !decoder->cell_weight) return 0;
  int channels = first->outputs;
  decoder->image_size = decoder->sizes.side;
  step_kind kind;
  while (decoder->num_steps < MOST_STEPS && find_kind(weights, decoder->num_steps, &kind)) {
    decoder_step* step = &decoder->steps[decoder->num_steps];
    step->kind = kind;
    if (kind == ATTENTION && decoder->image_size > MOST_ATTENDED) return 0;
    if (!fits(decoder, channels) || !find_step(weights, decoder->num_steps++, step, channels)) return 0;
    channels = step->outputs;
    if (kind == DOUBLE) decoder->image_size *= 2;
    if (decoder->image_size > MOST_PIXELS) return 0;
  }
  return fits(decoder, channels) && find_norm(weights, "last_norm", channels, &decoder->last_norm) &&
         find_convolution(weights, "last", 3, channels, 3, &decoder->last);
}

int je_image_decoder_open(je_image_decoder_sizes sizes, const je_weights* weights, je_pool* pool,
                          je_image_decoder** opened) {
  je_image_decoder* decoder = *opened = calloc(1, sizeof *decoder);
  if (!decoder) return JE_NO_MEMORY;
  decoder->sizes = sizes;
  decoder->pool = pool;
  const int is_sane = sizes.cell_channels > 0 && sizes.cell_channels <= MOST_CHANNELS && sizes.side > 0 &&
                      sizes.side <= MOST_PIXELS && sizes.num_groups > 0;
  if (is_sane && find_weights(decoder, weights)) return JE_OPENED;
  je_image_decoder_close(decoder);
  *opened = NULL;
  return JE_NO_FIT;
}

int32_t je_image_decoder_image_size(const je_image_decoder* decoder) { return decoder->image_size; }

void je_image_decoder_close(je_image_decoder* decoder) { free(decoder); }
