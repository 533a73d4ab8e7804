#include "image_file.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "error.hpp"
#include "exif.hpp"
#include "files.hpp"
#include "output.hpp"
#include "png.hpp"

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
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#include <stb_image.h>
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#include <stb_image_write.h>
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

namespace je {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;
constexpr size_t kBehindHeader = 8 + 25;  // of a PNG: its signature and first chunk

using Bytes = std::vector<uint8_t>;

bool begins_with(const Bytes& bytes, const char* text, size_t size) {
  return bytes.size() >= size && std::memcmp(bytes.data(), text, size) == 0;
}

// Whether its end is there: what decodes it takes zeros for what is missing.
bool is_whole(const Bytes& bytes) {
  const bool is_png = begins_with(bytes, "\x89PNG", 4);
  const std::string end = is_png ? "IEND\xAE\x42\x60\x82" : "\xFF\xD9", scan = "\xFF\xDA";
  const auto last = std::find_end(bytes.begin(), bytes.end(), scan.begin(), scan.end(),
                                  [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); });
  const auto from = is_png || last == bytes.end() ? bytes.begin() : last;
  return std::search(from, bytes.end(), end.begin(), end.end(),
                     [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); }) != bytes.end();
}

void check_size(const std::string& path, int64_t width, int64_t height) {
  if (width > 0 && height > kMaxPixels / width)
    fail(JE_E_IMAGE, path, ": ", width, "x", height, " pixels; make it smaller than 100 megapixels");
}

}  // namespace

Picture load_image(const std::string& path) {
  return decode_image(read_file(path, JE_E_IMAGE, "give a PNG or JPEG file"), path);
}

Picture decode_image(const Bytes& bytes, const std::string& path) {
  const auto wrong = [&](const char* what) { fail(JE_E_IMAGE, path, ": ", what, "; give a whole PNG or JPEG file"); };
  if (!begins_with(bytes, "\x89PNG\r\n\x1a\n", 8) && !begins_with(bytes, "\xFF\xD8\xFF", 3))
    wrong("not a picture that can be read");
  if (bytes.size() > kMostBytes) wrong("too large a file");
  if (!is_whole(bytes)) wrong("cut short");
  const Bytes mended = bytes[0] == 0x89 ? with_whole_palette(bytes) : Bytes();
  const Bytes& given = mended.empty() ? bytes : mended;
  const int size = static_cast<int>(given.size());
  int width = 0, height = 0, channels = 0;
  // stb refuses a large PNG without saying how large it is
  if (bytes[0] == 0x89 && bytes.size() > 24) check_size(path, word_at(bytes.data() + 16), word_at(bytes.data() + 20));
  if (!stbi_info_from_memory(given.data(), size, &width, &height, &channels)) wrong("damaged");
  check_size(path, width, height);
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(given.data(), size, &width, &height, &channels, 4), stbi_image_free);
  if (!pixels) wrong("damaged");
  return upright(to_rgb({pixels.get(), width, height, width * 4, 4}), orientation_of(bytes));
}

void save_png(const std::string& path, const Picture& picture,
              const std::vector<std::pair<std::string, std::string>>& texts) {
  check_is_png(path);
  int size = 0;
  const std::unique_ptr<unsigned char, void (*)(void*)> made(
      stbi_write_png_to_mem(picture.pixels.data(), picture.width * 3, picture.width, picture.height, 3, &size),
      std::free);
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
