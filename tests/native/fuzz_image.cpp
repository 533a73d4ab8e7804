// Fuzz target: any bytes as an image file are refused by an Error, or give an image of the size that it states.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "error.hpp"
#include "image_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  try {
    const je::Image found = je::decode_image(std::vector<uint8_t>(bytes, bytes + size), "a.png");
    if (found.pixels.size() != size_t{3} * static_cast<size_t>(found.width) * static_cast<size_t>(found.height))
      std::abort();
  } catch (const je::Error& error) {
    if (error.status != JE_E_IMAGE) std::abort();
  }
  return 0;
}
