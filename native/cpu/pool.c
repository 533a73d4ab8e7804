/* A pool with work stealing.
 *
 * Each thread has a range of a run's pieces and takes them from its front. A thread without pieces takes them from the
 * ends of the other ranges. A run is over when all pieces are done. A worker that the system schedules too late finds
 * no piece left, and nobody waits for it. A worker that is preempted within a piece makes the others wait. Then there
 * are more threads than idle processors, and the next runs do without one worker for a while. */
#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "system.h"

/* How long a worker spins between runs before it sleeps. A decode step has some 120 short runs; sleeping between them
 * would cost as much as the work. After this time other code may need the processor (docs/benchmark.md). */
#define SPIN_NS 100000
#define SPINS 64 /* pauses between two readings of the clock: 1 to 3 us */

/* A thread is late when another one waits for its piece longer than twice the time of the waiting thread's own pieces
 * plus LATE_NS. */
#define LATE_NS 50000
/* If such waits take more than 1 / PARTS of the time of the runs, the late worker is sent away: the next runs do not
 * use it. */
#define PARTS 6
#define TRIAL_NS \
  16000000 /* time of runs before a worker is sent away, so that the scheduler can place threads that slept */
#define WINDOW_NS 100000000 /* time of runs after which older times count half */
/* A worker is away for AWAY_NS at first and for four times as long each time that it happens again. Each window of runs
 * without late threads halves that time. */
#define AWAY_NS 20000000
#define LONGEST_AWAY_NS 640000000
#define IS_MARKED INT64_MAX /* will be sent away as soon as the run is over */

typedef struct {
  _Alignas(64) _Atomic uint64_t left; /* the pieces of its range that nobody took: first << 32 | end */
  atomic_uint run;                    /* counts runs; a new number means that there is work */
  atomic_bool is_busy, is_asleep;
  je_pool* pool;
  int index;
  int64_t away_until; /* used by the caller alone */
  je_thread thread;
  je_condition wake;
} worker;

struct je_pool {
  int size; /* number of threads, the caller included */
  int used; /* how many of them take part in runs */
  int process; /* in which they were started; a process that is forked from it has none of them */
  je_task task;
  void* context;
  int64_t away_ns, shared_ns, lost_ns; /* how long a worker was last sent away; time of the runs; time they waited */
  atomic_bool is_closing, is_running;
  _Atomic int64_t caller_late_since; /* when a worker began to wait for a late caller, or 0 */
  je_mutex mutex;                    /* held while a worker falls asleep */
  _Alignas(64) atomic_int done;      /* pieces of the run that workers did */
  worker workers[];                  /* workers[0] is the caller */
};

/* Claim a piece of a range: the first for its owner, the last for another thread. Return false if there is none.
 *
 * The run cannot end before a claimed piece is done, and a thread reads nothing else of the run before it has claimed
 * one. So it is harmless if the range belongs to a later run by then. */
static bool claim(worker* from, bool is_own, je_piece* piece) {
  uint64_t left = atomic_load_explicit(&from->left, memory_order_acquire), then;
  int first, end;
  do {
    first = (int)(left >> 32);
    end = (int)(uint32_t)left;
    if (first >= end) return false;
    then = is_own ? left + (UINT64_C(1) << 32) : left - 1;
  } while (
      !atomic_compare_exchange_weak_explicit(&from->left, &left, then, memory_order_acq_rel, memory_order_acquire));
  const int number = is_own ? first : end - 1, next = is_own ? first + 1 : end - 2;
  *piece = (je_piece){
      .number = number, .next = end - first > 1 ? next : -1, .worker = piece->worker, .is_next = piece->next == number};
  return true;
}

/* Do the thread's own pieces, then those of the others. Return how many it did. */
static int work(je_pool* pool, int index) {
  int count = 0;
  je_piece piece = {.worker = index, .next = -1};
  for (int i = 0; i < pool->size; i++)
    for (worker* from = &pool->workers[(index + i) % pool->size]; claim(from, i == 0, &piece); count++)
      pool->task(pool->context, piece);
  return count;
}

static void sleep_until_run(worker* self, unsigned seen) {
  je_lock(&self->pool->mutex);
  atomic_store(&self->is_asleep, true);
  while (atomic_load(&self->run) == seen) je_sleep_until_signal(&self->wake, &self->pool->mutex);
  atomic_store(&self->is_asleep, false);
  je_unlock(&self->pool->mutex);
}

/* Wait until there is a newer run than `seen`. worked_ns: how long this worker's pieces of that run took, 0 if it had
 * none. */
static void wait_for_run(worker* self, unsigned seen, int64_t worked_ns) {
  je_pool* pool = self->pool;
  const int64_t since = je_now_ns();
  for (int spins = 1; atomic_load(&self->run) == seen; spins++) {
    je_pause();
    if (spins % SPINS) continue;
    const bool is_waiting = worked_ns && atomic_load_explicit(&pool->is_running, memory_order_relaxed);
    if (je_now_ns() - since < (is_waiting ? 2 * worked_ns + LATE_NS : SPIN_NS)) continue;
    if (is_waiting) atomic_store_explicit(&pool->caller_late_since, since, memory_order_relaxed);
    sleep_until_run(self, seen);
  }
}

/* Start a worker's run. No wake-up is lost: the worker sets is_asleep before it reads `run`, and this function reads
 * is_asleep after it changed `run`. */
static void wake_for_run(worker* each) {
  atomic_fetch_add(&each->run, 1);
  if (!atomic_load(&each->is_asleep)) return;
  je_lock(&each->pool->mutex);
  je_unlock(&each->pool->mutex);
  je_signal(&each->wake);
}

static JE_THREAD_RESULT serve(void* argument) {
  worker* self = argument;
  je_pool* pool = self->pool;
  int64_t worked_ns = 0;
  for (unsigned seen = 0;;) {
    wait_for_run(self, seen, worked_ns);
    seen = atomic_load(&self->run);
    if (atomic_load(&pool->is_closing)) return 0;
    atomic_store_explicit(&self->is_busy, true, memory_order_relaxed);
    const int64_t began_ns = je_now_ns();
    const int count = work(pool, self->index);
    worked_ns = count ? je_now_ns() - began_ns : 0;
    atomic_store_explicit(&self->is_busy, false, memory_order_relaxed);
    if (count) atomic_fetch_add_explicit(&pool->done, count, memory_order_release);
  }
}

int je_pool_size(const je_pool* pool) { return pool->size; }

je_pool* je_pool_open(int32_t num_threads) {
  je_pool* pool = je_allocate_aligned(sizeof(je_pool) + (size_t)num_threads * sizeof(worker));
  if (!pool) return NULL;
  memset(pool, 0, sizeof(je_pool) + sizeof(worker));
  pool->away_ns = AWAY_NS / 4;
  pool->process = je_process();
  je_mutex_open(&pool->mutex);
  for (pool->size = 1; pool->size < num_threads; pool->size++) {
    worker* each = &pool->workers[pool->size];
    memset(each, 0, sizeof *each);
    each->pool = pool;
    each->index = pool->size;
    je_condition_open(&each->wake);
    if (!je_thread_start(&each->thread, serve, each)) {
      je_condition_close(&each->wake);
      je_pool_close(pool);
      return NULL;
    }
  }
  je_pool_use(pool, num_threads);
  return pool;
}

void je_pool_use(je_pool* pool, int32_t num_threads) {
  pool->used = num_threads < 1 ? 1 : num_threads < pool->size ? num_threads : pool->size;
  pool->shared_ns = pool->lost_ns = 0;
}

static bool is_here(const worker* each, int64_t now) {
  return now >= each->away_until && each->index < each->pool->used;
}

/* Mark the workers that are busy now, which are late. */
static void mark_late(je_pool* pool, int64_t now) {
  for (worker* each = pool->workers + 1; each < pool->workers + pool->size; each++)
    if (is_here(each, now) && atomic_load_explicit(&each->is_busy, memory_order_relaxed)) each->away_until = IS_MARKED;
}

/* Mark the last worker that is not away. If all are, the caller is marked, which nobody reads. */
static void mark_last(je_pool* pool, int64_t now) {
  worker* each = pool->workers + pool->size - 1;
  while (each > pool->workers && !is_here(each, now)) each--;
  each->away_until = IS_MARKED;
}

/* Add the time of a run and the time that it waited for late threads. If such waits are too large a part, send the
 * marked workers away. */
static void send_late_away(je_pool* pool, int64_t now, int64_t took_ns, int64_t lost_ns) {
  pool->shared_ns += took_ns;
  pool->lost_ns += lost_ns;
  int64_t until = 0;
  if (lost_ns && pool->shared_ns > TRIAL_NS && pool->lost_ns * PARTS > pool->shared_ns) {
    pool->away_ns = 4 * pool->away_ns < LONGEST_AWAY_NS ? 4 * pool->away_ns : LONGEST_AWAY_NS;
    until = now + pool->away_ns;
    pool->shared_ns = pool->lost_ns = 0;
  } else if (pool->shared_ns > WINDOW_NS) {
    pool->shared_ns /= 2;
    pool->lost_ns /= 2;
    pool->away_ns = pool->away_ns > AWAY_NS / 2 ? pool->away_ns / 2 : AWAY_NS / 4;
  }
  for (worker* each = pool->workers + 1; lost_ns && each < pool->workers + pool->size; each++)
    if (each->away_until == IS_MARKED) each->away_until = until;
}

/* Wait until workers have done `count` pieces. began_ns: when the run began. Return how long the wait took if a worker
 * was late, else 0. The naps leave the caller's processor to a worker that was preempted. */
static int64_t wait_for_others(je_pool* pool, int count, int64_t began_ns) {
  const int64_t since = je_now_ns(), late = since + 2 * (since - began_ns) + LATE_NS;
  bool is_late = false;
  for (int spins = 1; atomic_load_explicit(&pool->done, memory_order_acquire) < count; spins++) {
    je_pause();
    if (is_late) je_nap(LATE_NS);
    if (is_late || spins % SPINS || je_now_ns() < late) continue;
    is_late = true;
    mark_late(pool, je_now_ns());
  }
  return is_late ? je_now_ns() - since : 0;
}

/* Divide the pieces among the caller and the workers that are not away. Return false if all are away. */
static bool divide(je_pool* pool, int count, int64_t now) {
  worker *const first = pool->workers + 1, *const end = pool->workers + pool->size;
  int64_t index = 0, threads = 1;
  for (worker* each = first; each < end; each++) threads += is_here(each, now);
  if (threads == 1) return false;
  atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
  atomic_store_explicit(&pool->is_running, true, memory_order_relaxed);
  for (worker* each = pool->workers; each < end; each++) {
    if (each >= first && !is_here(each, now)) continue;
    const uint64_t from = (uint64_t)(count * index / threads), to = (uint64_t)(count * ++index / threads);
    atomic_store_explicit(&each->left, from << 32 | to, memory_order_release);
  }
  for (worker* each = first; each < end; each++)
    if (is_here(each, now)) wake_for_run(each);
  return true;
}

void je_pool_run(je_pool* pool, je_task task, void* context, int count) {
  const int64_t now = pool->size > 1 && count > 1 ? je_now_ns() : 0;
  pool->task = task;
  pool->context = context;
  if (!now || !divide(pool, count, now)) {
    for (int i = 0; i < count; i++)
      task(context, (je_piece){.number = i, .next = i + 1 < count ? i + 1 : -1, .is_next = i > 0});
    return;
  }
  const int own = work(pool, 0);
  int64_t lost_ns = own < count ? wait_for_others(pool, count - own, now) : 0;
  atomic_store_explicit(&pool->is_running, false, memory_order_relaxed);
  const int64_t end = je_now_ns();
  const int64_t since = atomic_exchange_explicit(&pool->caller_late_since, 0, memory_order_relaxed);
  if (since >= now) { /* otherwise it belongs to an earlier run, which was over by then */
    lost_ns += end - since + 1;
    mark_last(pool, end);
  }
  send_late_away(pool, end, end - now, lost_ns);
}

void je_pool_close(je_pool* pool) {
  if (!pool) return;
  if (pool->process != je_process()) { /* nobody is left to wake, and the conditions would wait for the waiting */
    je_free_aligned(pool);
    return;
  }
  atomic_store(&pool->is_closing, true);
  worker *const first = pool->workers + 1, *const end = pool->workers + pool->size;
  for (worker* each = first; each < end; each++) wake_for_run(each);
  for (worker* each = first; each < end; each++) {
    je_thread_join(each->thread);
    je_condition_close(&each->wake);
  }
  je_mutex_close(&pool->mutex);
  je_free_aligned(pool);
}
