// A library for LD_PRELOAD that makes the n-th call of a kind fail, if a certain library makes it. Calls of other
// libraries are left alone: ONNX Runtime ends the process when its own memory runs out (docs/c-api.md).
//
// Environment variables: JE_FAULT_LIBRARY, part of the library's path; JE_FAULT_KIND, the kind; JE_FAULT_AT, the number
// of the call, 0: none fails; JE_FAULT_ERRNO, the error; JE_FAULT_ALL, if set: all later calls fail, too;
// JE_FAULT_COUNT, a file that the number of calls is written to.
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace {

struct Range {
  uintptr_t begin, end;
  bool holds(const void* at) const { return begin <= uintptr_t(at) && uintptr_t(at) < end; }
};

Range library_code, cpp_runtime;  // the library; the C++ runtime, which allocates for it
char kind[16];
long fails_at;
bool fails_on;
int error;
std::atomic<long> calls;
thread_local bool is_inside;

int take(dl_phdr_info* info, size_t, void* library) {
  Range* found = strstr(info->dlpi_name, static_cast<const char*>(library)) ? &library_code
                 : strstr(info->dlpi_name, "libstdc++.so")                  ? &cpp_runtime
                                                                            : nullptr;
  for (int i = 0; found != nullptr && i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || !(part.p_flags & PF_X)) continue;
    *found = {info->dlpi_addr + part.p_vaddr, info->dlpi_addr + part.p_vaddr + part.p_memsz};
  }
  return 0;
}

bool is_by_library(const void* caller) {
  if (library_code.holds(caller)) return true;
  if (!cpp_runtime.holds(caller) || is_inside) return false;
  is_inside = true;  // the stack says for which library the C++ runtime allocates
  void* frames[16];
  const int count = backtrace(frames, 16);
  is_inside = false;
  int i = 0;
  while (i < count && !cpp_runtime.holds(frames[i])) ++i;
  while (i < count && cpp_runtime.holds(frames[i])) ++i;
  return i < count && library_code.holds(frames[i]);
}

bool fails(const char* name, const void* caller) {
  if (strcmp(name, kind) != 0 || !is_by_library(caller)) return false;
  const long call = ++calls;
  if (fails_at == 0 || (fails_on ? call < fails_at : call != fails_at)) return false;
  errno = error;
  return true;
}

template <class Function>
Function* next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

const char* value_of(const char* name, const char* otherwise) {
  const char* found = getenv(name);
  return found ? found : otherwise;
}

__attribute__((destructor)) void write_count() {
  const char* path = getenv("JE_FAULT_COUNT");
  kind[0] = 0;
  if (FILE* file = path ? fopen(path, "w") : nullptr) {
    fprintf(file, "%ld\n", calls.load());
    fclose(file);
  }
}

}  // namespace

extern "C" {

void je_fault_arm(const char* library, const char* name, long at, int number, int all) {
  void* frames[2];
  backtrace(frames, 2);  // its first call loads a library
  kind[0] = 0;
  dl_iterate_phdr(take, const_cast<char*>(library));
  calls = 0;
  fails_at = at;
  error = number;
  fails_on = all != 0;
  strncpy(kind, name, sizeof kind - 1);
}

long je_fault_calls(void) { return calls; }

__attribute__((constructor)) static void arm(void) {
  if (getenv("JE_FAULT_KIND") == nullptr) return;
  je_fault_arm(value_of("JE_FAULT_LIBRARY", "libjanus_edge"), value_of("JE_FAULT_KIND", ""),
               atol(value_of("JE_FAULT_AT", "0")), atoi(value_of("JE_FAULT_ERRNO", "0")),
               getenv("JE_FAULT_ALL") != nullptr);
}

#define CALLER __builtin_return_address(0)
#define FORWARD(name) static auto* const real = next(&name, #name)

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  using Open = int(const char*, int, mode_t);
  static auto* const real = reinterpret_cast<Open*>(dlsym(RTLD_NEXT, "open"));
  return fails("open", CALLER) ? -1 : real(path, flags, mode);
}

FILE* fopen(const char* path, const char* mode) {
  FORWARD(fopen);
  return fails("open", CALLER) ? nullptr : real(path, mode);
}

int stat(const char* path, struct stat* found) {
  FORWARD(stat);
  return fails("stat", CALLER) ? -1 : real(path, found);
}

int fstat(int file, struct stat* found) {
  FORWARD(fstat);
  return fails("stat", CALLER) ? -1 : real(file, found);
}

ssize_t pread(int file, void* to, size_t count, off_t offset) {
  FORWARD(pread);
  return fails("read", CALLER) ? -1 : real(file, to, count, offset);
}

ssize_t read(int file, void* to, size_t count) {
  FORWARD(read);
  return fails("read", CALLER) ? -1 : real(file, to, count);
}

ssize_t write(int file, const void* from, size_t count) {
  FORWARD(write);
  return fails("write", CALLER) ? -1 : real(file, from, count);
}

size_t fwrite(const void* from, size_t size, size_t count, FILE* file) {
  FORWARD(fwrite);
  return fails("write", CALLER) ? 0 : real(from, size, count, file);
}

int fflush(FILE* file) {
  FORWARD(fflush);
  return fails("write", CALLER) ? EOF : real(file);
}

int fsync(int file) {
  FORWARD(fsync);
  return fails("write", CALLER) ? -1 : real(file);
}

int fclose(FILE* file) {
  FORWARD(fclose);
  const bool is_lost = fails("write", CALLER);
  const int closed = real(file);
  if (is_lost) errno = error;
  return is_lost ? EOF : closed;
}

int rename(const char* from, const char* to) {
  FORWARD(rename);
  return fails("rename", CALLER) ? -1 : real(from, to);
}

void* mmap(void* at, size_t size, int access, int flags, int file, off_t offset) {
  FORWARD(mmap);
  return fails("mmap", CALLER) ? MAP_FAILED : real(at, size, access, flags, file, offset);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*start)(void*), void* with) {
  FORWARD(pthread_create);
  return fails("thread", CALLER) ? error : real(thread, how, start, with);
}

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) { return fails("memory", CALLER) ? nullptr : __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return fails("memory", CALLER) ? nullptr : __libc_calloc(count, size); }
void* aligned_alloc(size_t alignment, size_t size) {
  return fails("memory", CALLER) ? nullptr : __libc_memalign(alignment, size);
}
}

void* operator new(size_t size) {
  void* found = fails("memory", CALLER) ? nullptr : __libc_malloc(size ? size : 1);
  if (found == nullptr) throw std::bad_alloc();
  return found;
}
void* operator new[](size_t size) {
  void* found = fails("memory", CALLER) ? nullptr : __libc_malloc(size ? size : 1);
  if (found == nullptr) throw std::bad_alloc();
  return found;
}
