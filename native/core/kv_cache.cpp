#include "kv_cache.hpp"

#include <cstdlib>

#include "error.hpp"

namespace je {

std::vector<std::string> cache_names(const char* prefix, int64_t num_layers) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < num_layers; ++i)
    for (const char* kind : {"k", "v"}) names.push_back(join(prefix, kind, "_", i));
  return names;
}

CacheMemory allocate_caches(int64_t num_layers, size_t num_bytes) {
  CacheMemory memory;
  for (int64_t i = 0; i < 2 * num_layers; ++i) {
    memory.emplace_back(std::calloc(num_bytes, 1), std::free);
    if (!memory.back()) fail(JE_E_MEMORY, "no memory for keys and values; draw fewer images at once");
  }
  return memory;
}

}  // namespace je
