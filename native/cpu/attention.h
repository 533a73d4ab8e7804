/* Causal attention over an 8-bit KV cache. The keys and values of the new positions are stored in it first. */
#ifndef JE_ATTENTION_H
#define JE_ATTENTION_H

#include <stddef.h>

#include "decoder.h"

/* The arguments of attention in one layer. Letters: see decoder.h. */
typedef struct {
  const je_model* model;
  const je_layer* layer;
  int rows, time, cache_length;
  const int64_t *positions, *lengths; /* (rows, time) and (rows) */
  const float* qkv;                   /* (rows * time, (H + 2 G) * E) */
  float* attended;                    /* (rows * time, H * E) */
  int8_t *keys, *values;              /* (rows, G, M, E) */
} je_attention;

/* Compute attention of one row for one key-value head (group) and all query heads that share it. scratch: at least
 * je_attention_bytes() bytes. */
void je_attend(const je_attention* attention, int row, int group, float* scratch);

/* Return the bytes of scratch that je_attend needs. longest: the largest number of positions of a row after the call,
 * padding included. */
size_t je_attention_bytes(const je_model* model, int time, int longest);

#endif
