#include "pixels.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "error.hpp"
#include "sampling.hpp"

namespace je {
namespace {

constexpr int kMinSide = 14;   // the shortest side of a scaled image, in pixels
constexpr int kFraction = 22;  // fraction bits of a weight

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// The source pixels of one result pixel: `count` pixels from `first` on, with their weights.
struct Taps {
  int first, count;
  std::vector<int32_t> weights;
};

std::vector<Taps> taps_of(int from, int to) {
  const double scale = static_cast<double>(from) / to, stretch = std::max(scale, 1.0);
  const double support = 2 * stretch, inverse = 1 / stretch;
  std::vector<Taps> found(static_cast<size_t>(to));
  std::vector<double> exact;
  for (int i = 0; i < to; ++i) {
    Taps& taps = found[static_cast<size_t>(i)];
    const double center = (i + 0.5) * scale;
    taps.first = std::max(0, static_cast<int>(center - support + 0.5));
    taps.count = std::min(from, static_cast<int>(center + support + 0.5)) - taps.first;
    exact.clear();
    double sum = 0;
    for (int k = 0; k < taps.count; ++k) {
      exact.push_back(cubic((k + taps.first - center + 0.5) * inverse));
      sum += exact.back();
    }
    for (const double each : exact) {
      const double weight = (sum != 0 ? each / sum : each) * (1 << kFraction);
      taps.weights.push_back(static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5));
    }
  }
  return found;
}

uint8_t rounded(int sum) { return static_cast<uint8_t>(std::clamp(sum >> kFraction, 0, 255)); }

// Resize along one direction. step: bytes from one source pixel to the next in this direction.
uint8_t mixed(const uint8_t* from, size_t step, const Taps& taps) {
  int sum = 1 << (kFraction - 1);
  for (int k = 0; k < taps.count; ++k)
    sum += from[static_cast<size_t>(k) * step] * taps.weights[static_cast<size_t>(k)];
  return rounded(sum);
}

Image blank(int width, int height) {
  return {width, height, std::vector<uint8_t>(static_cast<size_t>(width) * static_cast<size_t>(height) * 3)};
}

Image widened(const Image& image, int width) {
  if (width == image.width) return image;
  Image found = blank(width, image.height);
  const std::vector<Taps> taps = taps_of(image.width, width);
  uint8_t* to = found.pixels.data();
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* row = image.pixels.data() + static_cast<size_t>(y) * static_cast<size_t>(image.width) * 3;
    for (const Taps& each : taps)
      for (int c = 0; c < 3; ++c) *to++ = mixed(row + each.first * 3 + c, 3, each);
  }
  return found;
}

Image heightened(const Image& image, int height) {
  if (height == image.height) return image;
  Image found = blank(image.width, height);
  const size_t stride = static_cast<size_t>(image.width) * 3;
  uint8_t* to = found.pixels.data();
  for (const Taps& each : taps_of(image.height, height)) {
    const uint8_t* from = image.pixels.data() + static_cast<size_t>(each.first) * stride;
    for (size_t x = 0; x < stride; ++x) *to++ = mixed(from + x, stride, each);
  }
  return found;
}

// Return a colour composited over white, as Pillow's alpha_composite does with an opaque background.
uint8_t over_white(unsigned colour, unsigned alpha) {
  const unsigned weight = alpha << 7;  // 255 << 7 is opaque
  const unsigned sum = colour * weight + 255 * ((255u << 7) - weight) + (0x80u << 7);
  return static_cast<uint8_t>(((sum >> 8) + sum) >> 8 >> 7);
}

}  // namespace

Image to_rgb(const je_image& image) {
  const bool is_known = image.channels == 1 || image.channels == 3 || image.channels == 4;
  const int64_t width = image.width, height = image.height;
  if (image.pixels == nullptr || width < 1 || height < 1 || !is_known || image.stride < width * image.channels)
    fail(JE_E_ARGUMENT, "a picture of ", width, " x ", height, " pixels, ", image.channels,
         " channels and a stride of ", image.stride, "; give pixels of 1, 3 or 4 channels");
  if (width * height > kMaxPixels)
    fail(JE_E_ARGUMENT, "a picture of ", width, " x ", height, " pixels; make it smaller than 100 megapixels");
  Image found = blank(image.width, image.height);
  uint8_t* to = found.pixels.data();
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* from = image.pixels + static_cast<ptrdiff_t>(y * image.stride);
    for (int64_t x = 0; x < width; ++x, from += image.channels)
      for (int c = 0; c < 3; ++c)
        *to++ = image.channels == 1 ? from[0] : image.channels == 3 ? from[c] : over_white(from[c], from[3]);
  }
  return found;
}

Image resize(const Image& image, int width, int height) {
  const int shrinks = image.height - height;
  if (shrinks > std::max(0, 2 * (image.width - width))) return widened(heightened(image, height), width);
  return heightened(widened(image, width), height);
}

std::vector<float> prepare(const Image& image, int size) {
  const int longest = std::max(image.width, image.height);
  const auto scaled = [&](int side) {  // in this order of operations, as in the published image processor
    return std::max(static_cast<int>(static_cast<double>(side) / longest * size), kMinSide);
  };
  const Image found = resize(image, scaled(image.width), scaled(image.height));
  const int left = (size - found.width) / 2, top = (size - found.height) / 2;
  const auto normal = [](float value) { return (value / 255 - 0.5f) / 0.5f; };
  const size_t side = static_cast<size_t>(size), plane = side * side;
  std::vector<float> values(3 * plane, normal(kPadding));
  for (int y = std::max(0, -top); y < std::min(found.height, size - top); ++y)
    for (int x = std::max(0, -left); x < std::min(found.width, size - left); ++x) {
      const size_t from = (static_cast<size_t>(y) * static_cast<size_t>(found.width) + static_cast<size_t>(x)) * 3;
      const size_t to = static_cast<size_t>(y + top) * side + static_cast<size_t>(x + left);
      for (size_t c = 0; c < 3; ++c) values[c * plane + to] = normal(found.pixels[from + c]);
    }
  return values;
}

Image to_image(const float* values, int size) {
  Image found = blank(size, size);
  const size_t plane = static_cast<size_t>(size) * static_cast<size_t>(size);
  check_sound(values, 3 * plane, "pixels");
  for (size_t i = 0; i < plane; ++i)
    for (size_t c = 0; c < 3; ++c) {
      const float value = (values[c * plane + i] + 1) / 2 * 255;
      found.pixels[3 * i + c] = value > 0 ? static_cast<uint8_t>(std::min(value, 255.0f)) : 0;
    }
  return found;
}

Image enlarge(const std::vector<float>& cells, int side, int factor) {
  Image found = blank(side * factor, side * factor);
  uint8_t* to = found.pixels.data();
  for (int y = 0; y < found.height; ++y)
    for (int x = 0; x < found.width; ++x)
      for (int c = 0; c < 3; ++c) {
        const float value = cells[static_cast<size_t>((y / factor * side + x / factor) * 3 + c)];
        // fmin and fmax are defined for NaN as well
        *to++ = static_cast<uint8_t>(std::nearbyint(std::fmin(std::fmax(value, 0.0f), 255.0f)));
      }
  return found;
}

}  // namespace je
