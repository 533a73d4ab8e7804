/* Tests the pool of native/cpu by itself, also under sanitizers: each piece of a run is done once, no two threads have
 * the same worker number at once, and a worker that was late is away for a while.
 *
 * usage: pool THREADS RUNS */
#include "../../native/cpu/pool.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MOST 500
#define THREADS 64

static void check(int is_right, const char* what) {
  if (is_right) return;
  fprintf(stderr, "wrong: %s\n", what);
  exit(1);
}

static void nap_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

typedef struct {
  int count, done[MOST]; /* not atomic: ThreadSanitizer reports it if two threads do the same piece */
  atomic_int is_used[THREADS];
} counted;

static void count_piece(void* context, je_piece piece) {
  counted* run = context;
  check(!atomic_exchange(&run->is_used[piece.worker], 1), "two threads with one number");
  check(piece.number >= 0 && piece.number < run->count, "a piece that is none");
  check(piece.next >= -1 && piece.next < run->count && piece.next != piece.number, "a next piece that is none");
  run->done[piece.number]++;
  for (volatile int i = 0; i < 200; i++) {
  }
  atomic_store(&run->is_used[piece.worker], 0);
}

static void run_all(je_pool* pool, int runs) {
  static counted run;
  for (int i = 0; i < runs; i++) {
    run.count = i * 7 % MOST;
    for (int j = 0; j < run.count; j++) run.done[j] = 0;
    je_pool_run(pool, count_piece, &run, run.count);
    for (int j = 0; j < run.count; j++) check(run.done[j] == 1, "a piece that was not done once");
    if (i % 500 == 0) nap_ms(1); /* long enough for the workers to fall asleep */
  }
}

typedef struct {
  atomic_int num_others; /* pieces that workers began */
  int patience_ms, nap_ms;
} late;

/* The caller's piece waits until a worker has begun its own. The worker's piece then sleeps for nap_ms. */
static void be_late(void* context, je_piece piece) {
  late* run = context;
  if (piece.worker) {
    atomic_fetch_add(&run->num_others, 1);
    nap_ms(run->nap_ms);
  } else {
    for (int i = 0; i < run->patience_ms && !atomic_load(&run->num_others); i++) nap_ms(1);
  }
}

static int others_of(je_pool* pool, int patience_ms, int nap) {
  late run = {.patience_ms = patience_ms, .nap_ms = nap};
  je_pool_run(pool, be_late, &run, je_pool_size(pool));
  return atomic_load(&run.num_others);
}

/* On a busy machine the time away can be over before the next run. Then the test tries again; each time away is longer.
 */
static void check_that_late_workers_are_away(je_pool* pool) {
  bool was_away = false;
  for (int i = 0; i < 5 && !was_away; i++) {
    check(others_of(pool, 10000, 50) == 1, "a worker that does nothing");
    was_away = others_of(pool, 1, 0) == 0;
    nap_ms(700); /* longer than any time away */
  }
  check(was_away, "a worker that was late and is here");
  check(others_of(pool, 10000, 0) == 1, "a worker that does not come back");
}

static void check_that_few_are_used(je_pool* pool) {
  je_pool_use(pool, 1);
  check(others_of(pool, 20, 0) == 0, "a worker that was not asked for");
  je_pool_use(pool, 7);
  check(others_of(pool, 10000, 0) == 1, "a worker that is not used again");
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 2, runs = argc > 2 ? atoi(argv[2]) : 1000;
  check(threads > 0 && threads < THREADS, "the number of threads");
  je_pool* pool = je_pool_open(threads);
  check(pool && je_pool_size(pool) == threads, "a pool");
  run_all(pool, runs);
  je_pool_close(pool);
  pool = je_pool_open(threads);
  if (threads == 2) {
    check_that_few_are_used(pool);
    check_that_late_workers_are_away(pool);
  }
  je_pool_close(pool);
  puts("ok");
  return 0;
}
