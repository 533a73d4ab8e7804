// Fuzz target: any bytes as a manifest are refused by an Error, or give a manifest that can be used.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "error.hpp"
#include "manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  try {
    const je::Manifest found = je::parse_manifest({reinterpret_cast<const char*>(bytes), size}, "manifest.json");
    // the loops rely on this
    if (found.cache.shape.size() != 4 || found.sizes.num_drawn() < 1 || found.sizes.hidden_size < 1) std::abort();
    for (const auto& [name, part] : found.components)
      if (part.file.file.empty() || part.file.file[0] == '.' || part.file.file.find('/') != std::string::npos)
        std::abort();
  } catch (const je::Error& error) {
    if (error.status != JE_E_BUNDLE) std::abort();
  }
  return 0;
}
