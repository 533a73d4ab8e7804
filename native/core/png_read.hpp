// PNG files in (PNG, third edition): equal to runtime/png.py and what Pillow makes of its result.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "pixels.hpp"

namespace je {

// An image as a file has it, before it is turned.
struct Decoded {
  Image image;
  int num_rows = 0;   // that could be decoded; the others become grey
  int num_there = 0;  // in the file
  int orientation = 1;
  bool is_coarse = false;  // parts that would make it finer are missing
};

// Grey, of what a cut file has not.
inline constexpr uint8_t kMissing = 128;

// By a header, before anything is decoded. Throws Error JE_E_IMAGE, without the file's name, as all functions here do.
void check_image_size(int64_t width, int64_t height);

Decoded decode_png(const std::vector<uint8_t>& file);

}  // namespace je
