/* Loaded before the C library (LD_PRELOAD): counts the file operations below one folder, of Python, of ctypes and of
 * every C or C++ library alike, and stops at the n-th: kills the process, lets it fail with an errno, or waits until
 * the test has looked at what a kill would leave. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = 0, PAUSE = -1, COUNT = -2 }; /* or an errno */

static char folder[4096];
static size_t folder_size;
static atomic_long count, at;
static int action = COUNT, with_reads, ask_fd = -1, answer_fd = -1;

/* below: only operations on paths below it count. n: which one stops, counted from 1; 0: every one. reads: whether
 * opening and mapping for reading count, too. */
void shim_arm(const char* below, long n, int what, int reads, int ask, int answer) {
  folder_size = strlen(below);
  memcpy(folder, below, folder_size + 1);
  ask_fd = ask;
  answer_fd = answer;
  with_reads = reads;
  action = what;
  at = n;
  count = 0;
}

long shim_count(void) { return count; }

static int is_below(int dir, const char* path) {
  if (folder_size == 0 || path == NULL) return 0;
  char whole[8192];
  if (path[0] != '/') {
    char link[64];
    snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
    const long size = syscall(SYS_readlinkat, AT_FDCWD, link, whole, sizeof whole - 1);
    if (size < 0) return 0;
    snprintf(whole + size, sizeof whole - (size_t)size, "/%s", path);
    path = whole;
  }
  return strncmp(path, folder, folder_size) == 0;
}

static int is_file(int descriptor) {
  char link[64], path[4096];
  if (folder_size == 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return strncmp(path, folder, folder_size) == 0;
}

static int is_due(void) {
  const long number = ++count;
  return action != COUNT && (at == 0 || number == at);
}

/* Whether the operation fails, with errno. */
static int stops(void) {
  if (!is_due()) return 0;
  if (action == KILL) kill(getpid(), SIGKILL);
  if (action == PAUSE) {
    char byte = 'x';
    if (syscall(SYS_write, ask_fd, &byte, 1) != 1 || syscall(SYS_read, answer_fd, &byte, 1) != 1) _exit(3);
    return 0;
  }
  errno = action;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int counts(int dir, const char* path, int flags) {
  return (with_reads || (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) && is_below(dir, path);
}

#define MODE                                   \
  mode_t mode = 0;                             \
  if (flags & (O_CREAT | __O_TMPFILE)) {       \
    va_list rest;                              \
    va_start(rest, flags);                     \
    mode = (mode_t)va_arg(rest, unsigned int); \
    va_end(rest);                              \
  }
#define OPEN(name)                                             \
  int name(const char* path, int flags, ...) {                 \
    MODE if (counts(AT_FDCWD, path, flags) && stops()) return -1; \
    return REAL(name)(path, flags, mode);                      \
  }
#define OPENAT(name)                                      \
  int name(int dir, const char* path, int flags, ...) {   \
    MODE if (counts(dir, path, flags) && stops()) return -1; \
    return REAL(name)(dir, path, flags, mode);            \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                \
  FILE* name(const char* path, const char* mode) {                                 \
    const int flags = strpbrk(mode, "wa+") ? O_WRONLY : O_RDONLY;                  \
    return counts(AT_FDCWD, path, flags) && stops() ? NULL : REAL(name)(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

/* A write that is stopped by a kill gets half of its bytes out. */
ssize_t write(int to, const void* bytes, size_t size) {
  if (is_file(to) && is_due()) {
    if (action == KILL) {
      syscall(SYS_write, to, bytes, size / 2);
      kill(getpid(), SIGKILL);
    }
    --count;
    if (stops()) return -1;
  }
  return REAL(write)(to, bytes, size);
}

#define FAILS(type, failed, test, name, parameters, arguments) \
  type name parameters { return (test) && stops() ? failed : REAL(name) arguments; }
FAILS(ssize_t, -1, is_file(to), writev, (int to, const struct iovec* parts, int n), (to, parts, n))
FAILS(ssize_t, -1, is_file(to), pwrite, (int to, const void* bytes, size_t size, off_t at_), (to, bytes, size, at_))
FAILS(ssize_t, -1, is_file(to), pwrite64, (int to, const void* bytes, size_t size, off64_t at_), (to, bytes, size, at_))
FAILS(int, -1, is_file(one), fsync, (int one), (one))
FAILS(int, -1, is_file(one), fdatasync, (int one), (one))
FAILS(int, -1, is_file(one), ftruncate, (int one, off_t size), (one, size))
FAILS(int, -1, is_file(one), ftruncate64, (int one, off64_t size), (one, size))
FAILS(int, -1, is_below(AT_FDCWD, path), mkdir, (const char* path, mode_t mode), (path, mode))
FAILS(int, -1, is_below(dir, path), mkdirat, (int dir, const char* path, mode_t mode), (dir, path, mode))
FAILS(char*, NULL, is_below(AT_FDCWD, path), mkdtemp, (char* path), (path))
FAILS(int, -1, is_below(AT_FDCWD, path), rmdir, (const char* path), (path))
FAILS(int, -1, is_below(AT_FDCWD, path), unlink, (const char* path), (path))
FAILS(int, -1, is_below(dir, path), unlinkat, (int dir, const char* path, int flags), (dir, path, flags))
FAILS(int, -1, is_below(AT_FDCWD, path), remove, (const char* path), (path))
FAILS(int, -1, is_below(AT_FDCWD, path), truncate, (const char* path, off_t size), (path, size))
FAILS(int, -1, is_below(AT_FDCWD, to), link, (const char* from, const char* to), (from, to))
FAILS(int, -1, is_below(dir2, to), linkat, (int dir, const char* from, int dir2, const char* to, int flags),
      (dir, from, dir2, to, flags))
FAILS(int, -1, is_below(AT_FDCWD, to), symlink, (const char* from, const char* to), (from, to))
FAILS(int, -1, is_below(dir, to), symlinkat, (const char* from, int dir, const char* to), (from, dir, to))
FAILS(int, -1, is_below(AT_FDCWD, to), rename, (const char* from, const char* to), (from, to))
FAILS(int, -1, is_below(dir2, to), renameat, (int dir, const char* from, int dir2, const char* to),
      (dir, from, dir2, to))
FAILS(int, -1, is_below(dir2, to), renameat2,
      (int dir, const char* from, int dir2, const char* to, unsigned int flags), (dir, from, dir2, to, flags))
FAILS(void*, MAP_FAILED, with_reads&& is_file(one), mmap,
      (void* where, size_t size, int use, int flags, int one, off_t from), (where, size, use, flags, one, from))
FAILS(void*, MAP_FAILED, with_reads&& is_file(one), mmap64,
      (void* where, size_t size, int use, int flags, int one, off64_t from), (where, size, use, flags, one, from))
