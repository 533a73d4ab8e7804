#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* A step is some 120 short runs: threads that slept between them would cost as much as the work. After this
 * long without one they do sleep, as whatever comes next may need the processor (docs/benchmark.md). */
#define SPIN_NS 100000

typedef struct {
    je_pool *pool;
    int index;
    pthread_t thread;
} worker;

struct je_pool {
    int size; /* with the caller */
    je_task task;
    void *context;
    int count;
    atomic_int next, busy, asleep, closing;
    atomic_uint run;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    worker workers[];
};

static long long now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void work(je_pool *pool, int index) {
    for (int task; (task = atomic_fetch_add(&pool->next, 1)) < pool->count;)
        pool->task(pool->context, task, index);
}

/* Until there is a run after the one seen last, or the pool closes. */
static void wait_for_run(je_pool *pool, unsigned seen) {
    long long since = now_ns();
    for (int spins = 1; atomic_load(&pool->run) == seen && !atomic_load(&pool->closing); spins++) {
        __builtin_ia32_pause();
        if (spins % 64 || now_ns() - since < SPIN_NS) continue;
        pthread_mutex_lock(&pool->mutex);
        atomic_fetch_add(&pool->asleep, 1);
        while (atomic_load(&pool->run) == seen && !atomic_load(&pool->closing))
            pthread_cond_wait(&pool->wake, &pool->mutex);
        atomic_fetch_sub(&pool->asleep, 1);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void wake_all(je_pool *pool) {
    if (!atomic_load(&pool->asleep)) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void *serve(void *argument) {
    worker *self = argument;
    je_pool *pool = self->pool;
    for (unsigned seen = 0;; seen++) {
        wait_for_run(pool, seen);
        if (atomic_load(&pool->closing)) return NULL;
        work(pool, self->index);
        atomic_fetch_sub(&pool->busy, 1);
    }
}

int je_pool_size(const je_pool *pool) { return pool->size; }

je_pool *je_pool_open(int32_t num_threads) {
    je_pool *pool = calloc(1, sizeof *pool + (size_t)num_threads * sizeof(worker));
    if (!pool) return NULL;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (pool->size = 1; pool->size < num_threads; pool->size++) {
        worker *each = &pool->workers[pool->size];
        *each = (worker){.pool = pool, .index = pool->size};
        if (pthread_create(&each->thread, NULL, serve, each)) {
            je_pool_close(pool);
            return NULL;
        }
    }
    return pool;
}

void je_pool_run(je_pool *pool, je_task task, void *context, int count) {
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->busy, pool->size - 1);
    atomic_fetch_add(&pool->run, 1);
    wake_all(pool);
    work(pool, 0);
    for (unsigned spins = 1; atomic_load(&pool->busy); spins++) {
        __builtin_ia32_pause();
        if (spins % 1024 == 0) sched_yield(); /* it may wait for our processor */
    }
}

void je_pool_close(je_pool *pool) {
    if (!pool) return;
    atomic_store(&pool->closing, 1);
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 1; i < pool->size; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}
