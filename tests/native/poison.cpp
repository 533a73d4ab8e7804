// A library for LD_PRELOAD: memory that libjanus_edge asks for as cleared bytes, which only its KV caches are, holds no
// number instead (as float16 and float32; 8-bit caches have such scales).
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

extern "C" {

void* __libc_calloc(size_t count, size_t size);

static std::atomic<long> poisoned;

long je_poisoned(void) { return poisoned; }

void* calloc(size_t count, size_t size) {
  void* found = __libc_calloc(count, size);
  Dl_info caller;
  if (!found || size != 1 || count < 1024 || !dladdr(__builtin_return_address(0), &caller)) return found;
  if (!strstr(caller.dli_fname, "libjanus_edge")) return found;
  memset(found, 0xff, count);
  ++poisoned;
  return found;
}
}
