// The orientation of an image: the tag Orientation of Exif 2.32. Mirrors runtime/exif.py.
#pragma once

#include <string_view>

#include "pixels.hpp"

namespace je {

// Return the orientation, 1 (upright) to 8, that a TIFF header and its first directory hold; 1 if they hold none.
int orientation_of(std::string_view tiff);

// Return the image turned upright. orientation: 1 to 8.
Image upright(Image image, int orientation);

}  // namespace je
