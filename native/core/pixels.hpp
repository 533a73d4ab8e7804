// Images in memory, and the pixel arithmetic before and after the model. Mirrors runtime/image.py.
#pragma once

#include <cstdint>
#include <vector>

#include "janus_edge.h"

namespace je {

// An RGB image of 8 bits per channel: rows from the top without gaps. width, height: in pixels.
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;

  // Return the image as the C API's struct, which points into this one.
  je_image view() const { return {pixels.data(), width, height, width * 3, 3}; }
};

// Convert to RGB; alpha is composited over white. Throws Error JE_E_ARGUMENT if the struct is not a valid image.
Image to_rgb(const je_image& image);

// Resize as Pillow 13 does with BICUBIC: antialiased, in 22-bit fixed point. It resizes along rows first, or along
// columns first if the height shrinks by more than twice the factor of the width.
Image resize(const Image& image, int width, int height);

// Return the input of the vision encoder: (3, size, size) in [-1, 1]. The long side is scaled to `size`, the rest is
// grey.
std::vector<float> prepare(const Image& image, int size);

// Convert the image decoder's output (3, size, size), about [-1, 1], to an image. Throws Error JE_E_BUNDLE if it is not
// finite.
Image to_image(const float* values, int size);

// Return an image of cells (side, side, 3), 0 to 255, each drawn as a square of factor x factor pixels.
Image enlarge(const std::vector<float>& cells, int side, int factor);

inline constexpr float kPadding = 127;            // the grey around an image, and of cells that are not drawn yet
inline constexpr int64_t kMaxPixels = 100000000;  // of an image that is read

}  // namespace je
