// Any bytes as an image file: it is refused by an Error, or a picture of the size it says.
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
