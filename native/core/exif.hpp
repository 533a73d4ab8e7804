// Which way up a picture is: the tag Orientation of Exif 2.32.
#pragma once

#include <cstdint>
#include <vector>

#include "pixels.hpp"

namespace je {

// 1 (upright) to 8, of the bytes of a JPEG or PNG file; 1 where it does not say.
int orientation_of(const std::vector<uint8_t>& file);

Picture upright(Picture picture, int orientation);

}  // namespace je
