// Image files: PNG and JPEG in, PNG out.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pixels.hpp"

namespace je {

constexpr int64_t kMostImageBytes = int64_t{1} << 30;

// Upright, transparency over white, by the rules of docs/prompts.md, "Image files". note: what is said of one whose
// end is missing. Throws Error JE_E_IMAGE.
Image load_image(const std::string& path, std::string* note = nullptr);

// The same of a file's bytes; path: its name, for errors.
Image decode_image(const std::vector<uint8_t>& bytes, const std::string& path, std::string* note = nullptr);

// texts: keys and values of the file's text chunks. It appears whole or not at all. Throws Error JE_E_OUTPUT.
void save_png(const std::string& path, const Image& image,
              const std::vector<std::pair<std::string, std::string>>& texts);

}  // namespace je
