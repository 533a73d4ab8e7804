/* A pool of threads that share the numbered pieces of a run. */
#ifndef JE_POOL_H
#define JE_POOL_H

#include <stdbool.h>

#include "decoder.h"

/* A piece of work.
 *
 * number: 0 ... count - 1. next: the piece that the same thread most likely does after this one, or -1. is_next: this
 * piece is the `next` of the thread's piece before. worker: the thread's own number, 0 ... je_pool_size() - 1. */
typedef struct {
  int number, next, worker;
  bool is_next;
} je_piece;

/* A function that does one piece. It is called on several threads at once. */
typedef void (*je_task)(void* context, je_piece piece);

/* Return the number of threads, the caller's included. */
int je_pool_size(const je_pool* pool);

/* Call the task for the pieces 0 ... count - 1, in any order, and return when all are done. context: passed on to the
 * task. One thread at a time may use a pool. The thread that does a piece differs from run to run, so the result of a
 * piece must not depend on its worker. */
void je_pool_run(je_pool* pool, je_task task, void* context, int count);

#endif
