/* A language decoder without a graph: 4-bit weights in blocks of 128, keys and values in 8 bits.
 *
 * For x86-64 with AVX-512 VNNI. Few rows at once (steps) read each weight once, at the memory's speed;
 * many (prompts, the tokens of a flow) widen a panel of weights to 8 bits and multiply it with all rows.
 * What is computed, and from which layout: docs/cpu-kernels.md.
 *
 * Shapes: R rows, T new positions of each, D width, H heads, G key-value heads, E head width, M cache
 * length, O outputs and I inputs of a product, K = ceil(I / 128) blocks.
 */
#ifndef JE_DECODER_H
#define JE_DECODER_H

#include <stdint.h>

#if defined(JE_INSIDE) || !defined(__GNUC__) /* part of a library that exports other functions (native/core) */
#define JE_PUBLIC
#else
#define JE_PUBLIC __attribute__((visibility("default")))
#endif

/* Weights (O, I): levels (O, K, 64), two a byte, the even input in the lower nibble, 8 standing for zero;
 * scales (O, K), of either sign. */
typedef struct {
  const uint8_t* levels;
  const float* scales;
  int32_t outputs, inputs;
} je_matrix;

/* Norms (D); what a level of each channel of a cached head is worth (G, E). */
typedef struct {
  const float *attention_norm, *mlp_norm, *key_scales, *value_scales;
  je_matrix q, k, v, o, gate, up, down;
} je_layer;

/* cos and sin: (positions, E / 2). E is a multiple of 32, at most 256. */
typedef struct {
  int32_t num_layers, width, num_heads, num_kv_heads, head_dim;
  float epsilon;
  const float *cos, *sin, *norm;
  const je_layer* layers;
} je_model;

/* Threads that decoders and heads share, one of them at a time. */
typedef struct je_pool je_pool;
typedef struct je_decoder je_decoder;

/* Of the structures and functions of this header: who loads the library at run time compares it. */
#define JE_DECODER_VERSION 2

/* JE_DECODER_VERSION, or 0 where this processor has not the instructions (runs_here.c uses none of them). */
JE_PUBLIC int je_decoder_runs_here(void);

/* num_threads: with the caller's. NULL when there is no memory or thread left. */
JE_PUBLIC je_pool* je_pool_open(int32_t num_threads);
JE_PUBLIC void je_pool_close(je_pool* pool);

/* The pool, the model and all it points to must outlive the decoder. NULL when there is no memory left. */
JE_PUBLIC je_decoder* je_decoder_open(const je_model* model, je_pool* pool);

/* embeds (R, T, D) to final-normed hidden states (R, T, D); one thread at a time.
 *
 * positions (R, T) rotate queries and keys. lengths (R) count a row's valid positions after the call: new
 * ones lie at its end or, when it is shorter than T, at the start, with padding behind (whose hidden
 * states mean nothing). caches: keys, then values of each layer (R, G, M, E), updated in place.
 * 0, or -1 when there is no memory left; nothing has been changed then. 1: it was stopped, and what it wrote means
 * nothing. */
JE_PUBLIC int je_decoder_run(je_decoder* decoder, int32_t rows, int32_t time, const float* embeds,
                             const int64_t* positions, const int64_t* lengths, int32_t cache_length,
                             int8_t* const* caches, float* hidden);

/* Runs end after the layer in which another thread sets *flag. NULL: they don't ask. */
JE_PUBLIC void je_decoder_stop_by(je_decoder* decoder, const int* flag);

JE_PUBLIC void je_decoder_close(je_decoder* decoder);

#endif
