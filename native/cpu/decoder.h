/* A language decoder on the CPU: 4-bit weights in blocks of 128, an 8-bit KV cache.
 *
 * Each weight is read from memory once, whatever the number of rows. All instruction sets compute the same bits, and a
 * row's result does not depend on the other rows. docs/cpu-kernels.md says what is computed and how weights are laid
 * out.
 *
 * Letters in shapes: R rows, T new positions per row, D width, H heads, G key-value heads, E head width, M cache
 * length; of a matrix O outputs, I inputs. Arrays are contiguous, float32 unless named otherwise.
 */
#ifndef JE_DECODER_H
#define JE_DECODER_H

#include <stdint.h>

#if defined(JE_INSIDE) || !defined(__GNUC__) /* part of a library that exports other functions (native/core) */
#define JE_PUBLIC
#else
#define JE_PUBLIC __attribute__((visibility("default")))
#endif

/* A matrix (O, I) of weights of 4 bits in blocks of 128 inputs, or of 8 bits in blocks of 32 or 128.
 *
 * tiles: the weights and their scales as docs/bundle.md lays them out, aligned to 4 bytes. bias (O): or NULL. The caller
 * owns the arrays. */
typedef struct {
  const uint8_t* tiles;
  const float* bias;
  int32_t outputs, inputs, bits, block;
} je_matrix;

/* A layer. attention_norm, mlp_norm (D): weights of the RMSNorms. key_scales, value_scales (G, E): the scale of each
 * channel of the KV cache. */
typedef struct {
  const float *attention_norm, *mlp_norm, *key_scales, *value_scales;
  je_matrix q, k, v, o, gate, up, down;
} je_layer;

/* A model. head_dim E: a multiple of 32, at most 256. cos, sin (positions, E / 2): the tables of RoPE. norm (D): weight
 * of the last RMSNorm. epsilon: of all RMSNorms. */
typedef struct {
  int32_t num_layers, width, num_heads, num_kv_heads, head_dim;
  float epsilon;
  const float *cos, *sin, *norm;
  const je_layer* layers;
} je_model;

/* Threads that decoders and heads share. One thread at a time may use a pool. */
typedef struct je_pool je_pool;

/* A decoder: a model and the buffers of its runs. One thread at a time may use it. */
typedef struct je_decoder je_decoder;

/* The version of the structs and functions of this header, head.h, encoder.h and image_decoder.h. A program that loads the library at run time
 * compares it. */
#define JE_DECODER_VERSION 7

/* Return JE_DECODER_VERSION, or 0 if this processor lacks the instructions. The function itself uses none of them. */
JE_PUBLIC int je_decoder_runs_here(void);

/* Return the name of the instruction set that is used, for example "avx512_vnni"; NULL if none is. */
JE_PUBLIC const char* je_instructions(void);

/* Use an instruction set by name; NULL: the fastest that this processor has. Nothing may run meanwhile.
 * Return 1; 0 if this processor does not have it; -1 if there is none of this name. */
JE_PUBLIC int je_choose_instructions(const char* name);

/* Start a pool of num_threads threads, the caller's included. Return NULL if there is no memory or no thread left. The
 * caller gives it to je_pool_close. */
JE_PUBLIC je_pool* je_pool_open(int32_t num_threads);

/* Let at most num_threads of the pool's threads take part in its next runs: other work needs the others' processors. No
 * run may be in progress. */
JE_PUBLIC void je_pool_use(je_pool* pool, int32_t num_threads);

/* End the threads and free the pool. NULL is allowed. */
JE_PUBLIC void je_pool_close(je_pool* pool);

/* Compute products of 8-bit numbers on all threads, without reading memory: the most that matrix products can reach.
 * repeats: of some thousand operations. Return the number of operations. */
JE_PUBLIC int64_t je_pool_multiply(je_pool* pool, int32_t repeats);

/* Make a decoder. The pool, the model and all arrays it points to must outlive the decoder. Return NULL if there is no
 * memory left. The caller gives it to je_decoder_close. */
JE_PUBLIC je_decoder* je_decoder_open(const je_model* model, je_pool* pool);

/* Compute the hidden states of new positions and add their keys and values to the caches. One thread at a time.
 *
 * rows, time: R and T. embeds (R, T, D): the input. positions (R, T): by which queries and keys are rotated.
 * lengths (R): the number of valid positions of each row after the call. The new positions are the last T of them; if a
 *   length is below T, they start at 0 and the rest of T is padding, whose hidden states are undefined.
 * cache_length: M. caches: for each layer its keys, then its values, each (R, G, M, E); updated in place.
 * hidden (R, T, D): the result, after the last RMSNorm. If last_only is not 0, only the states of each row's last valid
 *   position are computed; the others are left as they are.
 *
 * Return 0; -1 if there is no memory left, and nothing has been changed; 1 if the run was stopped
 * (je_decoder_stop_by), and what it wrote is undefined. */
JE_PUBLIC int je_decoder_run(je_decoder* decoder, int32_t rows, int32_t time, const float* embeds,
                             const int64_t* positions, const int64_t* lengths, int32_t cache_length,
                             int8_t* const* caches, float* hidden, int32_t last_only);

/* Let another thread stop runs: when it sets *flag to a value other than 0, a run ends after the current layer.
 * flag must live until it is replaced or the decoder is closed. NULL: runs are not stopped. */
JE_PUBLIC void je_decoder_stop_by(je_decoder* decoder, const int* flag);

/* Free a decoder. NULL is allowed. */
JE_PUBLIC void je_decoder_close(je_decoder* decoder);

#endif
