// The KV cache: its names in a decoder's inputs and outputs, and its memory on the host. Mirrors runtime/kv_cache.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace je {

inline constexpr const char *kPast = "past_", *kPresent = "present_";  // prefixes of a decoder's inputs and outputs

// Names in a decoder's order, after a prefix: k_0, v_0, k_1, ...
std::vector<std::string> cache_names(const char* prefix, int64_t num_layers);

// Keys and values of all layers in the order of their names, each with memory of its own.
using CacheMemory = std::vector<std::unique_ptr<void, void (*)(void*)>>;

// num_bytes: of each. All are cleared. Throws Error JE_E_MEMORY.
CacheMemory allocate_caches(int64_t num_layers, size_t num_bytes);

}  // namespace je
