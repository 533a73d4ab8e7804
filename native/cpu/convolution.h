/* Convolutions of images by 8-bit weights: 3x3 with a border of zeros, or 1x1.
 *
 * An image is (H W, C) float32: the channels of a pixel lie together. C is a multiple of 16, except of the last image.
 * A convolution's matrix has the inputs (taps, C), row by row of the window, where each tap is filled up to whole blocks.
 */
#ifndef JE_CONVOLUTION_H
#define JE_CONVOLUTION_H

#include "products.h"

typedef struct {
  const float *weight, *bias;
} je_norm;

typedef struct {
  int height, width, channels;
  float* pixels;
} je_image;

/* What convolutions share: kernels, threads and memory. quantized: room for je_quantized_bytes() of the largest image.
 * moments: 2 C numbers for each row of the largest image, and 2 C more. pixels: C numbers for each worker. */
typedef struct {
  const je_kernels* kernels;
  je_pool* pool;
  int num_groups;
  je_rows quantized;
  int32_t* starts; /* room for the blocks of the largest matrix */
  float *moments, *pixels;
} je_convolver;

/* Return the number of pixels of an image with its border. */
static inline size_t je_bordered(int height, int width) { return (size_t)(height + 2) * (size_t)(width + 2); }

/* Return 1 if a matrix is a convolution of images of so many channels. */
int je_is_convolution(const je_matrix* matrix, int taps, int channels);

/* Quantize an image for convolutions by a matrix. norm: if not NULL, group norm is applied first, and has_silu says whether
 * SiLU follows. doubles: pixels are repeated to twice the height and width. */
void je_quantize_image(je_convolver* convolver, const je_image* image, const je_matrix* matrix, const je_norm* norm,
                       int has_silu, int doubles);

/* Convolve the image that was quantized last into one of height x width. taps: 9 or 1. stride: floats from one pixel to the
 * next. */
void je_convolve(je_convolver* convolver, const je_matrix* matrix, int taps, int height, int width, float* y,
                 size_t stride, je_epilogue epilogue);

#endif
