/* The image decoder of a VQ tokenizer or of a latent diffusion's autoencoder: cells to pixels, by 8-bit weights. */
#ifndef JE_IMAGE_DECODER_H
#define JE_IMAGE_DECODER_H

#include "weights.h"

/* cell_channels: of an input. side: cells along a side. num_groups: of group norms. */
typedef struct {
  int32_t cell_channels, side, num_groups;
} je_image_decoder_sizes;

typedef struct je_image_decoder je_image_decoder;

/* Make a decoder of the weights that docs/cpu-kernels.md names. Return JE_OPENED, JE_NO_MEMORY or JE_NO_FIT. The pool must
 * outlive the decoder. The caller gives it to je_image_decoder_close. */
JE_PUBLIC int je_image_decoder_open(je_image_decoder_sizes sizes, const je_weights* weights, je_pool* pool,
                                    je_image_decoder** opened);

/* Return the pixels along a side of the image. */
JE_PUBLIC int32_t je_image_decoder_image_size(const je_image_decoder* decoder);

/* Compute one image's pixels (3, S, S) of its cells (side * side, cell_channels). One thread at a time may use a pool.
 * stop: NULL, or another thread may set *stop to end the run between two steps. Return 0, 1 if it was ended, or -1 if there
 * is no memory left. */
JE_PUBLIC int je_image_decoder_run(je_image_decoder* decoder, const float* cells, float* pixels, const int* stop);

/* Free a decoder. NULL is allowed. */
JE_PUBLIC void je_image_decoder_close(je_image_decoder* decoder);

#endif
