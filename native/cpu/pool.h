/* Threads that share numbered pieces of work. */
#ifndef JE_POOL_H
#define JE_POOL_H

#include <stdbool.h>

#include "decoder.h"

/* next: the piece that the same thread most likely does after this, or -1; is_next: this is the one that it was told
 * before. worker: 0 ... threads - 1, the same for one thread. */
typedef struct {
  int number, next, worker;
  bool is_next;
} je_piece;

typedef void (*je_task)(void* context, je_piece piece);

int je_pool_size(const je_pool* pool);

/* Call the task for 0 ... count - 1, in any order, and return when all are done. One thread at a time for one
 * pool. Which thread does which piece differs from run to run, so a piece must not depend on it. */
void je_pool_run(je_pool* pool, je_task task, void* context, int count);

#endif
