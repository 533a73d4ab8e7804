// What a job does: pieces of work, and what there is to tell after each.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "cached_decoder.hpp"
#include "engines.hpp"
#include "flow.hpp"
#include "pixels.hpp"
#include "prompt.hpp"
#include "sampling.hpp"

namespace je {

struct Event {
  int32_t kind = JE_EVENT_PROGRESS;
  int64_t done = 0, total = 0;
  const char* unit = nullptr;
  std::string text;
  int64_t index = 0;
  uint64_t seed = 0;
  Image image;
  std::vector<int32_t> codes;
  Latent latent;
};
using Events = std::deque<Event>;

class Task {
 public:
  virtual ~Task() = default;

  // One piece: a prefill, a code, a step, a token, an image. False: there was none left. Throws Error, Cancelled.
  virtual bool advance(Events& events, const Cancel& cancel) = 0;
};

// One image of a request: its place among all, its seed, its prompt's ids.
struct PlannedImage {
  int64_t index;
  uint64_t seed;
  Ids ids;
};

struct CodeSettings {
  double guidance_scale = 1;
  Choice choice;

  bool is_guided() const { return guidance_scale != 1; }  // at scale 1 the other row would cancel out
};

struct Question {
  Ids ids;
  std::vector<Image> images;
  int64_t max_tokens;
  uint64_t seed;
  Choice choice;
};

// Janus: codes one after the other, as many images at once as the decoder has rows for.
std::unique_ptr<Task> draw_codes(std::shared_ptr<Engines> engines, const CodeSettings& settings,
                                 std::vector<PlannedImage> planned, bool has_previews);

// JanusFlow: one image after the other; those of one prompt share its cache.
std::unique_ptr<Task> draw_flow(std::shared_ptr<Engines> engines, const FlowSettings& settings,
                                std::vector<PlannedImage> planned, bool has_previews);

std::unique_ptr<Task> answer(std::shared_ptr<Engines> engines, Question question);

// Rows of a prompt's embeddings (T, D), behind what is there already.
void embed(const Table& table, const Ids& ids, size_t width, std::vector<float>& to);

// The decoder with caches of its own for so many rows and positions; needs_steps, has_prefill: see
// Engines::decoder_names.
std::unique_ptr<CachedDecoder> make_decoder(Engines& engines, int64_t rows, int64_t length, bool needs_steps,
                                            bool has_prefill);

// The image decoder's image of codes or a latent.
Image decode_image(Engines& engines, const Tensor& from, const Cancel& cancel);

}  // namespace je
