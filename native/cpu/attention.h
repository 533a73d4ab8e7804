/* Causal attention of new positions over 8-bit keys and values, which they are added to first. */
#ifndef JE_ATTENTION_H
#define JE_ATTENTION_H

#include <stddef.h>

#include "decoder.h"

typedef struct {
  const je_model* model;
  const je_layer* layer;
  int rows, time, cache_length;
  const int64_t *positions, *lengths; /* (rows, time) and (rows) */
  const float* qkv;                   /* (rows * time, (H + 2 G) * E) */
  float* mixed;                       /* (rows * time, H * E) */
  int8_t *keys, *values;              /* (rows, G, M, E) */
} je_attention;

/* One row's key-value head, and the heads that share it. scratch: je_attention_bytes(). */
void je_attend(const je_attention* attention, int row, int group, float* scratch);

/* longest: positions that are valid after the call, of the longest row, or its padding's end. */
size_t je_attention_bytes(const je_model* model, int time, int longest);

#endif
