// Images to the vectors that stand for them in a prompt. Mirrors runtime/vision.py.
#include <algorithm>

#include "error.hpp"
#include "task.hpp"

namespace je {
namespace {

// Return the vectors (N, D) of an image as the vision encoder reads it.
Vectors encode(Engines& engines, const std::vector<float>& pixels, const Cancel& cancel) {
  const Sizes& sizes = engines.sizes();
  const int64_t side = sizes.image_size, tokens = sizes.num_image_tokens, width = sizes.hidden_size;
  const TensorInfo* out = engines.bundle().component("vision_encoder").output("features");
  if (out == nullptr || out->shape.size() != 3)
    fail(JE_E_BUNDLE, engines.bundle().manifest_file(), ": vision_encoder: no features; export the bundle again");
  const int64_t channels = out->shape[2].size;
  std::vector<float> features(static_cast<size_t>(tokens * channels));
  Vectors made(static_cast<size_t>(tokens * width));
  const Tensor between = floats("features", {1, tokens, channels}, features.data());
  engines.stage("vision_encoder")(floats("pixels", {1, 3, side, side}, pixels.data()), between, cancel);
  engines.stage("vision_aligner")(between, floats("embeds", {1, tokens, width}, made.data()), cancel);
  return made;
}

// Vectors (N, D) of images, one after the other, and a key for each vector.
struct Seen {
  Vectors vectors;
  Key keys;
};

// Vectors of images that were seen before are kept.
void see(Engines& engines, const Image& image, Seen& seen, const Cancel& cancel) {
  const std::vector<float> pixels = prepare(image, static_cast<int>(engines.sizes().image_size));
  const std::string digest = image_digest(pixels);
  std::shared_ptr<const Vectors> known = engines.kept().image(digest);
  if (!known) {
    known = std::make_shared<const Vectors>(encode(engines, pixels, cancel));
    engines.kept().keep_image(digest, known);
  }
  seen.vectors.insert(seen.vectors.end(), known->begin(), known->end());
  seen.keys.insert(seen.keys.end(), static_cast<size_t>(engines.sizes().num_image_tokens), image_key(digest));
}

}  // namespace

std::vector<Embedded> embedded(Engines& engines, const std::vector<Ids>& prompts, const std::vector<Image>& images,
                               const Cancel& cancel) {
  const size_t width = static_cast<size_t>(engines.sizes().hidden_size);
  if (!images.empty()) engines.open({"vision_encoder", "vision_aligner"});  // they check sizes before memory is taken
  Seen seen;
  for (const Image& each : images) see(engines, each, seen, cancel);
  std::vector<Embedded> found;
  for (const Ids& ids : prompts) {
    Embedded& one = found.emplace_back();
    one.key.assign(ids.begin(), ids.end());
    embed(engines.table("text_embed"), ids, width, one.embeds);
    size_t next = 0;
    for (size_t i = 0; i < ids.size() && next < seen.keys.size(); ++i) {
      if (ids[i] != engines.bundle().encoder->image_placeholder()) continue;
      std::copy_n(seen.vectors.begin() + static_cast<std::ptrdiff_t>(next * width), width,
                  one.embeds.begin() + static_cast<std::ptrdiff_t>(i * width));
      one.key[i] = seen.keys[next++];
    }
  }
  return found;
}

}  // namespace je
