// Reads PNG files (PNG, third edition). The pixels equal those that Pillow makes of the result of runtime/png.py, which
// this mirrors.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "pixels.hpp"

namespace je {

// An image as a file holds it, before it is turned upright.
struct Decoded {
  Image image;
  int num_rows = 0;   // rows that could be decoded; the others become grey
  int num_there = 0;  // rows that the file holds, damaged ones included
  int orientation = 1;
  bool is_coarse = false;  // parts that would refine it are missing
};

// The grey of rows that are missing.
inline constexpr uint8_t kMissing = 128;

// Check the size in a header, before anything is decoded. Throws Error JE_E_IMAGE, without the file's name, as
// decode_png does.
void check_image_size(int64_t width, int64_t height);

// Check how many rows a file holds: half of them must be there. Throws Error as check_image_size does.
void check_rows(int there, int height);

// Decode a PNG file.
Decoded decode_png(const std::vector<uint8_t>& file);

}  // namespace je
