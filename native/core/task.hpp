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
  Picture picture;
  std::vector<int32_t> codes;
  Latent latent;
};
using Events = std::deque<Event>;

class Work {
 public:
  virtual ~Work() = default;

  // One piece: a prefill, a code, a step, a token, a picture. False: there was none left. Throws Error, Cancelled.
  virtual bool advance(Events& events, const Cancel& cancel) = 0;
};

// One picture of a request: its place among all, its seed, its prompt's ids.
struct Drawing {
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
  std::vector<Picture> pictures;
  int64_t max_tokens;
  uint64_t seed;
  Choice choice;
};

// Janus: codes one after the other, as many pictures at once as the decoder has rows for.
std::unique_ptr<Work> draw_codes(std::shared_ptr<Engines> engines, const CodeSettings& settings,
                                 std::vector<Drawing> drawings, bool has_previews);

// JanusFlow: one picture after the other; those of one prompt share its cache.
std::unique_ptr<Work> draw_flow(std::shared_ptr<Engines> engines, const FlowSettings& settings,
                                std::vector<Drawing> drawings, bool has_previews);

std::unique_ptr<Work> answer(std::shared_ptr<Engines> engines, Question question);

// Rows of a prompt's embeddings (T, D), behind what is there already.
void embed(const Table& table, const Ids& ids, size_t width, std::vector<float>& to);

// The decoder with caches of its own for so many rows and positions; needs_steps, has_many: see Engines::decoders.
std::unique_ptr<Decoder> make_decoder(Engines& engines, int64_t rows, int64_t length, bool needs_steps, bool has_many);

// The image decoder's picture of codes or a latent.
Picture decode_picture(Engines& engines, const Tensor& from, const Cancel& cancel);

}  // namespace je
