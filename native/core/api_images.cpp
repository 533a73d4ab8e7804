// The functions of janus_edge.h on image files.
#include <cstring>

#include "guard.hpp"
#include "image_file.hpp"
#include "tokenizer.hpp"

using je::guarded;
using je::need;

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
      if (pairs.back().first.empty() || pairs.back().first.size() > 79)  // PNG's limit
        je::fail(JE_E_ARGUMENT, "a key of texts is ", pairs.back().first.size(), " bytes long; give 1 to 79");
    }
    je::save_png(path, je::to_rgb(*image), pairs);
    return JE_OK;
  });
}
}
