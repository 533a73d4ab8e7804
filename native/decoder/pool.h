/* Threads that share numbered tasks. */
#ifndef JE_POOL_H
#define JE_POOL_H

typedef struct je_pool je_pool;
typedef void (*je_task)(void *context, int task, int worker);

/* num_threads: with the caller's. NULL when a thread cannot be had. */
je_pool *je_pool_open(int num_threads);
/* Call the task for 0 ... count - 1, in any order, and return when all are done. worker: 0 ... threads - 1,
 * the same for one thread. */
void je_pool_run(je_pool *pool, je_task task, void *context, int count);
void je_pool_close(je_pool *pool);

#endif
