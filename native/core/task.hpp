// Tasks, the work of a job: each does one piece of work at a time and yields events. Shapes: T tokens, D width.
#pragma once

#include <cmath>
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

// An event of a job; see je_event.
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
  bool is_approximate = false;
};
using Events = std::deque<Event>;

// A request's work. One thread at a time.
class Task {
 public:
  virtual ~Task() = default;

  // Do one piece of work (a prefill, a code, a step, a token, an image) and append its events. Return false if there
  // was nothing left to do. Throws Error, Cancelled.
  virtual bool advance(Events& events, const Cancel& cancel) = 0;
};

// One image of a request. index: among all images of the request, from 0. ids: of its prompt.
struct PlannedImage {
  int64_t index;
  uint64_t seed;
  Ids ids;
};

// What a request draws. shown: images of the turns before.
struct Drawing {
  std::vector<PlannedImage> planned;
  std::vector<Image> shown;
  bool has_previews;
};

// Settings of drawing codes. parallel: positions that a pass computes; 0: what is fastest. window: codes of a row that
// are there when the next row begins; 0: raster order. guidance_end: the part of an image's codes that are guided.
struct CodeSettings {
  double guidance_scale = 1;
  Choice choice;
  int64_t parallel = 0, window = 0;
  double guidance_end = 1;

  // Return true if codes do not depend on all that the published loop lets them depend on.
  bool is_approximate() const { return window > 0 || (is_guided() && guidance_end < 1); }

  // Return how many of an image's codes are guided.
  size_t num_guided(size_t num_codes) const {
    return is_guided() ? static_cast<size_t>(std::nearbyint(guidance_end * static_cast<double>(num_codes))) : 0;
  }

  // Return true if unconditional rows are needed: at scale 1 they cancel out.
  bool is_guided() const { return guidance_scale != 1; }
};

// A question about images. max_tokens: of the answer. parallel: positions that a pass computes; 0: what is fastest.
struct Question {
  Ids ids;
  std::vector<Image> images;
  int64_t max_tokens;
  uint64_t seed;
  Choice choice;
  int64_t parallel = 0;
};

// Draw with Janus, as many images at once as the decoder has rows for.
std::unique_ptr<Task> draw_codes(std::shared_ptr<Engines> engines, const CodeSettings& settings, Drawing drawing);

// Draw with JanusFlow: one image after the other. Images of the same prompt share its KV cache.
std::unique_ptr<Task> draw_flow(std::shared_ptr<Engines> engines, const FlowSettings& settings, Drawing drawing);

// Answer a question.
std::unique_ptr<Task> answer(std::shared_ptr<Engines> engines, Question question);

// A prompt as the decoder reads it. key: among kept contexts. embeds (T, D).
struct Embedded {
  Key key;
  std::vector<float> embeds;
};

// Return prompts whose placeholders are replaced by the vectors of the images, in order. A prompt has places for the
// vectors of all images or of none.
std::vector<Embedded> embedded(Engines& engines, const std::vector<Ids>& prompts, const std::vector<Image>& images,
                               const Cancel& cancel);

// Append the embeddings (T, D) of token ids to `to`. width: D.
void embed(const Table& table, const Ids& ids, size_t width, std::vector<float>& to);

// Return a cached decoder for `rows` rows of `length` positions. needs_steps, has_prefill: see Engines::decoder_names.
std::unique_ptr<CachedDecoder> make_decoder(Engines& engines, int64_t rows, int64_t length, bool needs_steps,
                                            bool has_prefill);

// Compute each prompt once and return the hidden states (R, D) of the rows' last positions. Prompts are kept where
// results do not depend on what is computed together. sources (R): the prompt of each row.
std::vector<float> compute_prompts(Engines& engines, CachedDecoder& decoder, std::vector<Embedded> prompts,
                                   std::vector<size_t> sources, const Cancel& cancel);

// Run the image decoder, or the preview decoder, on codes or a latent and return the image. decoder: its component.
Image decode_image(Engines& engines, const std::string& decoder, const Tensor& from, const Cancel& cancel);

}  // namespace je
