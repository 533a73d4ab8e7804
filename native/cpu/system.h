/* Threads, sleeping, clocks and aligned memory of the operating system. To port the pool, rewrite this file alone. */
#ifndef JE_SYSTEM_H
#define JE_SYSTEM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

typedef pthread_t je_thread;
typedef pthread_mutex_t je_mutex;
typedef pthread_cond_t je_condition;

#define JE_THREAD_RESULT void* /* the result type of a function that a thread runs */

static inline bool je_thread_start(je_thread* thread, JE_THREAD_RESULT (*run)(void*), void* argument) {
  return pthread_create(thread, NULL, run, argument) == 0;
}

static inline void je_thread_join(je_thread thread) { pthread_join(thread, NULL); }

static inline void je_mutex_open(je_mutex* mutex) { pthread_mutex_init(mutex, NULL); }
static inline void je_mutex_close(je_mutex* mutex) { pthread_mutex_destroy(mutex); }
static inline void je_lock(je_mutex* mutex) { pthread_mutex_lock(mutex); }
static inline void je_unlock(je_mutex* mutex) { pthread_mutex_unlock(mutex); }

static inline void je_condition_open(je_condition* condition) { pthread_cond_init(condition, NULL); }
static inline void je_condition_close(je_condition* condition) { pthread_cond_destroy(condition); }
static inline void je_signal(je_condition* condition) { pthread_cond_signal(condition); }
static inline void je_sleep_until_signal(je_condition* condition, je_mutex* mutex) {
  pthread_cond_wait(condition, mutex);
}

/* Return the number of the process. */
static inline int je_process(void) { return (int)getpid(); }

/* Return 1 if another thread has set *stop; 0 if stop is NULL. */
static inline int je_is_stopped(const int* stop) { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }

static inline int64_t je_now_ns(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

/* Sleep for ns nanoseconds, less than a second. */
static inline void je_nap(long ns) { nanosleep(&(struct timespec){.tv_nsec = ns}, NULL); }

/* Pause for some ten nanoseconds, in a loop that waits for another processor. */
static inline void je_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Allocate memory aligned to 64 bytes. The caller gives it to je_free_aligned. */
#ifdef _WIN32
static inline void* je_allocate_aligned(size_t bytes) { return _aligned_malloc(bytes, 64); }
static inline void je_free_aligned(void* memory) { _aligned_free(memory); }
#else
#define JE_HUGE_PAGE ((size_t)1 << 21) /* bytes: far fewer page faults */
static inline void* je_allocate_aligned(size_t bytes) {
  const size_t unit = bytes < 4 * JE_HUGE_PAGE ? 64 : JE_HUGE_PAGE, size = (bytes + unit - 1) / unit * unit;
  void* memory = aligned_alloc(unit, size);
#if defined(__linux__)
  if (memory && unit == JE_HUGE_PAGE) madvise(memory, size, MADV_HUGEPAGE); /* it may not: then pages are small */
#endif
  return memory;
}
static inline void je_free_aligned(void* memory) { free(memory); }
#endif

#endif
