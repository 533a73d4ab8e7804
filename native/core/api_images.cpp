// The functions of janus_edge.h on image files.
#include <algorithm>
#include <cstring>

#include "error.hpp"
#include "guard.hpp"
#include "image_file.hpp"
#include "tokenizer.hpp"

using je::guarded;
using je::need;

namespace {

// Refuse what is no keyword of a PNG text chunk. Throws Error JE_E_ARGUMENT.
void check_key(const std::string& key) {
  if (key.empty() || key.size() > 79)
    je::fail(JE_E_ARGUMENT, "a key of texts is ", key.size(), " bytes long; give 1 to 79");
  const bool is_printable = std::all_of(key.begin(), key.end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (!is_printable || key.front() == ' ' || key.back() == ' ' || key.find("  ") != std::string::npos)
    je::fail(JE_E_ARGUMENT, "a key of texts is \"", key,
             "\"; give printable ASCII without a space at its ends or two in a row");
}

}  // namespace

extern "C" {

je_status je_image_load(const char* path, je_image* image) {
  return guarded([&]() -> je_status {
    need(image, "image");
    *image = {};
    need(path, "path");
    std::string note;
    const je::Image found = je::load_image(path, &note);
    auto* pixels = new uint8_t[found.pixels.size()];
    std::memcpy(pixels, found.pixels.data(), found.pixels.size());
    *image = found.view();
    image->pixels = pixels;
    return je::note(JE_OK, note.c_str());
  });
}

void je_image_free(je_image* image) {
  if (image == nullptr) return;
  delete[] image->pixels;
  *image = {};
}

je_status je_image_save(const char* path, const je_image* image, const char* const* texts, size_t num_texts) {
  return guarded([&]() -> je_status {
    need(path, "path");
    need(image, "image");
    if (num_texts > 0) need(texts, "texts");
    std::vector<std::pair<std::string, std::string>> pairs;
    for (size_t i = 0; i < num_texts; ++i) {
      need(texts[2 * i], "a key of texts");
      need(texts[2 * i + 1], "a value of texts");
      pairs.emplace_back(je::well_formed(texts[2 * i]), je::well_formed(texts[2 * i + 1]));
      check_key(pairs.back().first);
    }
    je::save_png(path, je::to_rgb(*image), pairs);
    return JE_OK;
  });
}
}
