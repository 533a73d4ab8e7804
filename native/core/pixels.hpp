// Images in memory, and the pixel arithmetic on both sides of the model. Equal to runtime/image.py.
#pragma once

#include <cstdint>
#include <vector>

#include "janus_edge.h"

namespace je {

// RGB, 8 bits each, rows from the top without gaps.
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;

  je_image view() const { return {pixels.data(), width, height, width * 3, 3}; }
};

// Grey and RGB as they are, alpha over white. Throws Error JE_E_ARGUMENT for what is no image.
Image to_rgb(const je_image& image);

// As Pillow 13's resize with BICUBIC does: antialiased, in 22-bit fixed point, along rows first, or along columns first
// where the height shrinks by more than twice what the width does.
Image resize(const Image& image, int width, int height);

// As the vision encoder takes it, (3, size, size) in [-1, 1]: the long side scaled, the rest grey.
std::vector<float> prepare(const Image& image, int size);

// The image decoder's output (3, size, size), about [-1, 1]. Throws Error JE_E_BUNDLE where it is not finite.
Image to_image(const float* values, int size);

// Cells (side, side, 3) from 0 to 255, each a square of `factor` pixels a side.
Image enlarge(const std::vector<float>& cells, int side, int factor);

inline constexpr float kPadding = 127;  // grey where nothing is
inline constexpr int64_t kMaxPixels = 100000000;

}  // namespace je
