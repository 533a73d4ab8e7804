#include "exif.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace je {
namespace {

constexpr uint32_t kOrientation = 0x0112, kShort = 3, kLong = 4;  // the tag; types of values

// Reads the numbers of a TIFF header in its own byte order. A number outside of the header is 0.
class Tiff {
 public:
  explicit Tiff(std::string_view bytes) : bytes_(bytes), is_little_(bytes.substr(0, 2) == "II") {}

  uint32_t number(size_t at, int size) const {
    if (at > bytes_.size() || bytes_.size() - at < static_cast<size_t>(size)) return 0;
    uint32_t found = 0;
    for (int i = 0; i < size; ++i) {
      const int place = is_little_ ? size - 1 - i : i;
      found = found << 8 | static_cast<uint8_t>(bytes_[at + static_cast<size_t>(place)]);
    }
    return found;
  }

  int orientation() const {
    const size_t first = number(4, 4);
    const uint32_t entries = number(first, 2);
    for (uint32_t i = 0; i < entries; ++i) {
      const size_t entry = first + 2 + size_t{12} * i;
      if (number(entry, 2) != kOrientation) continue;
      const uint32_t type = number(entry + 2, 2);
      const uint32_t found = number(entry + 8, type == kLong ? 4 : 2);
      return (type == kShort || type == kLong) && found >= 1 && found <= 8 ? static_cast<int>(found) : 1;
    }
    return 1;
  }

 private:
  std::string_view bytes_;
  bool is_little_;
};

}  // namespace

int orientation_of(std::string_view tiff) { return tiff.empty() ? 1 : Tiff(tiff).orientation(); }

Image upright(Image image, int orientation) {
  if (orientation <= 1) return image;
  // 2, 4, 5 and 7 are mirrored; 5 to 8 are turned by 90 degrees
  const bool is_turned = orientation >= 5;
  const int width = is_turned ? image.height : image.width;
  const int height = is_turned ? image.width : image.height;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image found{width, height, std::vector<uint8_t>(image.pixels.size())};
  uint8_t* to = found.pixels.data();
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x, to += 3) {
      const int column = is_turned ? y : x, row = is_turned ? x : y;
      const int from_x = from_right ? image.width - 1 - column : column;
      const int from_y = from_below ? image.height - 1 - row : row;
      const size_t at =
          (static_cast<size_t>(from_y) * static_cast<size_t>(image.width) + static_cast<size_t>(from_x)) * 3;
      std::copy_n(image.pixels.data() + at, 3, to);
    }
  return found;
}

}  // namespace je
