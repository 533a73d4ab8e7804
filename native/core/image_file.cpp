#include "image_file.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "error.hpp"
#include "exif.hpp"
#include "files.hpp"
#include "formats.hpp"
#include "jpeg.hpp"
#include "output.hpp"
#include "png.hpp"
#include "png_read.hpp"

// stb's writer does not check for NULL. An exception ends it instead; the memory that it holds then is leaked.
static void* or_thrown(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#include <stb_image.h>
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#define STBIW_MALLOC(size) or_thrown(std::malloc(size))
#define STBIW_REALLOC(memory, size) or_thrown(std::realloc(memory, size))
#define STBIW_FREE(memory) std::free(memory)
#include <stb_image_write.h>
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

namespace je {
namespace {

constexpr size_t kBehindHeader = 8 + 25;  // bytes of a PNG file's signature and first chunk
constexpr const char* kGive = "give a whole PNG or JPEG file";

using Bytes = std::vector<uint8_t>;

// Decode a JPEG file by stb. Return false if it is damaged.
bool decode(const Bytes& file, Image& to) {
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(file.data(), static_cast<int>(file.size()), &width, &height, &channels, 3),
      stbi_image_free);
  if (!pixels) {
    if (std::strcmp(stbi_failure_reason(), "outofmem") == 0) throw std::bad_alloc();
    return false;
  }
  to = to_rgb({pixels.get(), width, height, width * 3, 3});
  return true;
}

// Decode the rows of the first scan that are there. The other rows are left empty.
Decoded decode_upper(const Jpeg& jpeg) {
  Decoded found;
  const JpegUnits units = count_units(jpeg);
  found.num_rows = units.num_rows;
  found.num_there = jpeg.is_open ? units.num_there : jpeg.height;
  if (found.num_rows > 0 && !decode(upper_jpeg(jpeg, units.data, found.num_rows), found.image)) found.num_rows = 0;
  found.image.width = jpeg.width;
  found.image.height = jpeg.height;
  found.image.pixels.resize(size_t{3} * static_cast<size_t>(jpeg.width) * static_cast<size_t>(jpeg.height));
  return found;
}

// Decode as many of the first scans as can be decoded. Return false if none can. What comes after a damaged scan cannot
// be, so few tries find it.
bool decode_scans(const Jpeg& jpeg, Image& to) {
  size_t least = 0, most = jpeg.scans.size();
  for (size_t count = most; least < most; count = (least + most + 1) / 2) {
    if (decode(jpeg_file(jpeg, count), to))
      least = count;
    else
      most = count - 1;
  }
  return least > 0;
}

Decoded decode_jpeg(std::string_view file) {
  const Jpeg jpeg = read_jpeg(file);
  Decoded found;
  const bool is_there = !(jpeg.is_one && jpeg.is_open) && decode_scans(jpeg, found.image);
  if (is_there)
    found.num_rows = found.num_there = jpeg.height;
  else
    found = decode_upper(jpeg);
  found.is_coarse = jpeg.is_coarse;
  found.orientation = orientation_of(jpeg.exif);
  return found;
}

// Return true if the path begins like a URL: https://, file://, ...
bool is_address(const std::string& path) {
  size_t end = 0;
  while (end < path.size() && (std::isalnum(static_cast<unsigned char>(path[end])) != 0 || path[end] == '+' ||
                               path[end] == '.' || path[end] == '-'))
    ++end;
  return end > 1 && std::isalpha(static_cast<unsigned char>(path[0])) != 0 && path.compare(end, 2, ":/") == 0;
}

// Fill missing rows with grey. Return a note on it, "" if none is missing.
std::string fill(Decoded& made) {
  const int height = made.image.height;
  if (made.is_coarse && made.num_rows == height) return "its last scans are missing, the image is coarse";
  if (made.num_rows == height) return "";
  check_rows(made.num_there, height);
  const size_t start = size_t{3} * static_cast<size_t>(made.image.width) * static_cast<size_t>(made.num_rows);
  std::fill(made.image.pixels.begin() + static_cast<std::ptrdiff_t>(start), made.image.pixels.end(), kMissing);
  return join(made.num_rows, " of ", height, " rows are there, the rest is grey");
}

}  // namespace

Image load_image(const std::string& path, std::string* note) {
  if (is_address(path) && !stamp_of(path))
    fail(JE_E_IMAGE, path, ": addresses are not read; download the image and give its path");
  return decode_image(read_file(path, JE_E_IMAGE, kGive, kMostImageBytes), path, note);
}

Image decode_image(const Bytes& bytes, const std::string& path, std::string* note) {
  const std::string_view file(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string kind = name_format(file);
  if (kind != "PNG" && kind != "JPEG")
    fail(JE_E_IMAGE, path, ": ", kind.empty() ? "not an image that can be read" : kind + " is not read",
         "; save the image as PNG or JPEG");
  try {
    Decoded made = kind == "PNG" ? decode_png(bytes) : decode_jpeg(file);
    const std::string said = fill(made);
    if (note != nullptr && !said.empty()) *note = path + ": cut short: " + said;
    return upright(std::move(made.image), made.orientation);
  } catch (const Error& error) {
    const std::string what = error.what(), advice = what.find(';') == std::string::npos ? join("; ", kGive) : "";
    fail(error.status == JE_E_ARGUMENT ? JE_E_IMAGE : error.status, path, ": ", what, advice);
  }
}

void save_png(const std::string& path, const Image& image,
              const std::vector<std::pair<std::string, std::string>>& texts) {
  check_is_png(path);
  int size = 0;
  const std::unique_ptr<unsigned char, void (*)(void*)> made(
      stbi_write_png_to_mem(image.pixels.data(), image.width * 3, image.width, image.height, 3, &size), std::free);
  if (!made) throw std::bad_alloc();
  Bytes file(made.get(), made.get() + kBehindHeader);
  for (const auto& [key, text] : texts) {
    const Bytes chunk = text_chunk(key, text);
    file.insert(file.end(), chunk.begin(), chunk.end());
  }
  file.insert(file.end(), made.get() + kBehindHeader, made.get() + size);
  write_output(path, file.data(), file.size());
}

}  // namespace je
