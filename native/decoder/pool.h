/* Threads that share numbered tasks. */
#ifndef JE_POOL_H
#define JE_POOL_H

#include "decoder.h"

typedef void (*je_task)(void *context, int task, int worker);

int je_pool_size(const je_pool *pool);

/* Call the task for 0 ... count - 1, in any order, and return when all are done. worker: 0 ... threads - 1,
 * the same for one thread. */
void je_pool_run(je_pool *pool, je_task task, void *context, int count);

#endif
