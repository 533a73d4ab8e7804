/* Convolutions of images by 8-bit weights, with a border of zeros.
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

/* The windows of a convolution: side x side pixels, the first of which is (row, column) pixels from the window's own. */
typedef struct {
  int side, row, column;
} je_window;

#define JE_WINDOW_3 ((je_window){3, -1, -1})
#define JE_WINDOW_1 ((je_window){1, 0, 0})

/* Return 1 if a matrix is a convolution of images of so many channels, with windows of side x side. */
int je_is_convolution(const je_matrix* matrix, int side, int channels);

/* Quantize an image for convolutions by a matrix. norm: if not NULL, group norm is applied first, and has_silu says whether
 * SiLU follows. */
void je_quantize_image(je_convolver* convolver, const je_image* image, const je_matrix* matrix, const je_norm* norm,
                       int has_silu);

/* Convolve the image that was quantized last, of height x width. y: the first output. stride, y_step: floats from one
 * output to the next of a row, and from one row to the next. */
void je_convolve(je_convolver* convolver, const je_matrix* matrix, je_window window, int height, int width, float* y,
                 size_t stride, size_t y_step, je_epilogue epilogue);

#endif
