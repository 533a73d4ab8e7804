/* The steps of an image decoder, found in its weights (image_decoder.c) and run (image_decoder_run.c). */
#ifndef JE_IMAGE_DECODER_STEPS_H
#define JE_IMAGE_DECODER_STEPS_H

#include "convolution.h"
#include "image_decoder.h"

#define MOST_STEPS 128

typedef enum { RESIDUAL, ATTENTION, DOUBLE } step_kind;

/* A step, and the channels of its input and output. RESIDUAL: norms and matrices 0, 1; matrix 2: the shortcut, if channels
 * differ. ATTENTION: norm 0; matrices q, k, v and of the result. DOUBLE: matrices for even rows and even columns of the
 * result, even and odd, odd and even, odd and odd: pixels are repeated to twice the height and width and then convolved, by
 * windows of 2 x 2 pixels that were not repeated. */
typedef struct {
  step_kind kind;
  int inputs, outputs;
  je_norm norms[2];
  je_matrix matrices[4];
} decoder_step;

struct je_image_decoder {
  je_image_decoder_sizes sizes;
  je_pool* pool;
  int num_steps, first_channels, image_size;
  const float *cell_weight, *cell_bias; /* (cell_channels, first_channels) and (first_channels) */
  je_matrix first, last;
  je_norm last_norm;
  decoder_step steps[MOST_STEPS];
};

#endif
