/* Where a component finds its weights by name. */
#ifndef JE_WEIGHTS_H
#define JE_WEIGHTS_H

#include "decoder.h"

/* What opening a component returns. */
enum { JE_OPENED = 0, JE_NO_MEMORY = -1, JE_NO_FIT = 1 }; /* JE_NO_FIT: a weight is missing, or sizes do not fit */

/* Functions that look weights up in a bundle. What they return must outlive the component. A function that does not find
 * what is wanted returns NULL or 0, and remembers why; the component is then not opened. */
typedef struct {
  void* context;
  /* Return how many numbers a tensor has; 0 if there is none of this name. */
  int64_t (*count)(void* context, const char* name);
  /* Return the address of `count` float32 numbers. */
  const float* (*floats)(void* context, const char* name, int32_t count);
  /* Set *found to a layer's weights and its bias, if it has one. inputs, outputs 0: as many as there are. Return 1. */
  int (*matrix)(void* context, const char* layer, int32_t inputs, int32_t outputs, je_matrix* found);
} je_weights;

#endif
