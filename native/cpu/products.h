/* Matrix products of many rows, and convolutions, on the threads of a pool. */
#ifndef JE_PRODUCTS_H
#define JE_PRODUCTS_H

#include "kernels/table.h"
#include "pool.h"

#define JE_FEW_ROWS 8 /* up to so many, the caller quantizes rows itself, and parts are longer */

/* A product of rows with a matrix. y (rows, stride): the outputs. Of a convolution, these are the pixels of one row of the
 * image, and repeats is the number of such rows: from one to the next, origin grows by step and y by y_step floats. */
typedef struct {
  const je_kernels* kernels;
  const je_matrix* matrix;
  je_rows rows;
  int repeats, step;
  float* y;
  size_t stride, y_step;
  je_epilogue epilogue;
} je_product;

void je_product_run(je_pool* pool, const je_product* product);

/* Quantize rows x (rows, width) for products. Before that, LayerNorm is applied if weight is not NULL. */
typedef struct {
  const je_kernels* kernels;
  je_rows rows;
  const float *x, *weight, *bias;
  float* normed; /* (rows, width): memory, if weight is not NULL */
  int width;
  float epsilon;
} je_quantization;

void je_quantize(je_pool* pool, const je_quantization* quantization);

/* Return the next `bytes` of memory, aligned to 64 bytes, and add them to *used. If memory is NULL, only count. */
void* je_reserve(char* memory, size_t* used, size_t bytes);

/* Place the buffers of `count` quantized rows of `blocks` blocks in memory; see je_reserve. */
void je_reserve_rows(je_rows* rows, char* memory, size_t* used, size_t count, size_t blocks, size_t block);

#endif
