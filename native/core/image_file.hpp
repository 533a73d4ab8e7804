// Image files: reads PNG and JPEG, writes PNG. Mirrors load_image and decode_image of runtime/image.py and save_image
// of runtime/image_file.py.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pixels.hpp"

namespace je {

// The largest image file, in bytes.
constexpr int64_t kMostImageBytes = int64_t{1} << 30;

// Read an image file: upright, transparency over white, by the rules of docs/prompts.md, "Image files". note: set to a
// line if the end of the file is missing; may be nullptr. Throws Error JE_E_IMAGE.
Image load_image(const std::string& path, std::string* note = nullptr);

// Decode the content of an image file, as load_image does. path: its name, for errors.
Image decode_image(const std::vector<uint8_t>& bytes, const std::string& path, std::string* note = nullptr);

// Write a PNG file by the rules of write_output. texts: keys and values of its text chunks. Throws Error JE_E_OUTPUT,
// and JE_E_ARGUMENT for the suffix of another image format.
void save_png(const std::string& path, const Image& image,
              const std::vector<std::pair<std::string, std::string>>& texts);

}  // namespace je
