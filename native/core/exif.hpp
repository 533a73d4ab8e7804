// Which way up an image is: the tag Orientation of Exif 2.32.
#pragma once

#include <string_view>

#include "pixels.hpp"

namespace je {

// 1 (upright) to 8, of a TIFF header and its first directory; 1 where there is none.
int orientation_of(std::string_view tiff);

Image upright(Image image, int orientation);

}  // namespace je
