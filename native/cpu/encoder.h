/* The vision encoder (SigLIP): an image's pixels to the features of its patches, by 8-bit weights in blocks of 128.
 *
 * Letters in shapes: N patches, C width, S side of the image, P side of a patch.
 */
#ifndef JE_ENCODER_H
#define JE_ENCODER_H

#include "weights.h"

/* image_size S, in pixels. patch_size P. num_heads: of C / num_heads channels, a multiple of 16. epsilon: of all
 * LayerNorms. */
typedef struct {
  int32_t image_size, patch_size, num_heads;
  float epsilon;
} je_encoder_sizes;

typedef struct je_encoder je_encoder;

/* Make an encoder of the weights that docs/cpu-kernels.md names. Return JE_OPENED, JE_NO_MEMORY or JE_NO_FIT. The pool must
 * outlive the encoder. The caller gives it to je_encoder_close. */
JE_PUBLIC int je_encoder_open(je_encoder_sizes sizes, const je_weights* weights, je_pool* pool, je_encoder** opened);

/* Return C and N of an encoder. */
JE_PUBLIC int32_t je_encoder_width(const je_encoder* encoder);
JE_PUBLIC int32_t je_encoder_num_patches(const je_encoder* encoder);

/* Compute features (N, C) of one image's pixels (3, S, S). One thread at a time may use a pool. stop: NULL, or another
 * thread may set *stop to end the run between two layers. Return 0, 1 if it was ended, or -1 if there is no memory left. */
JE_PUBLIC int je_encoder_run(je_encoder* encoder, const float* pixels, float* features, const int* stop);

/* Free an encoder. NULL is allowed. */
JE_PUBLIC void je_encoder_close(je_encoder* encoder);

#endif
