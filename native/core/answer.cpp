// Answers questions: images become vectors inside the prompt, and tokens become text. Mirrors runtime/answer.py and
// decode_text of runtime/decode.py.
#include <algorithm>

#include "error.hpp"
#include "task.hpp"

namespace je {
namespace {

class Answer : public Task {
 public:
  Answer(std::shared_ptr<Engines> engines, Question question)
      : engines_(std::move(engines)),
        sizes_(engines_->sizes()),
        question_(std::move(question)),
        stream_(*engines_->bundle().encoder),
        most_(std::min(question_.max_tokens, sizes_.max_length - static_cast<int64_t>(question_.ids.size()))) {}

  bool advance(Events& events, const Cancel& cancel) override {
    if (is_over_) return false;
    if (!decoder_)
      begin(cancel);
    else if (position_ < most_)
      take_token(events, cancel);
    else
      end(events);
    return true;
  }

 private:
  void begin(const Cancel& cancel) {
    const DecoderNames names = engines_->decoder_names(true, true);
    std::vector<std::string> needed{names.step, "text_head"};
    if (names.prefill != names.step) needed.push_back(names.prefill);
    if (!question_.images.empty()) needed.insert(needed.end(), {"vision_encoder", "vision_aligner"});
    engines_->open(needed);
    const std::vector<float> embeds = prompt(cancel);
    const int64_t length = static_cast<int64_t>(question_.ids.size());
    decoder_ = make_decoder(*engines_, 1, length + most_, true, true);
    hidden_ = decoder_->prefill(embeds, {length}, cancel);
  }

  // Return the prompt's embeddings, with the vectors of the images in the places of their placeholders.
  std::vector<float> prompt(const Cancel& cancel) {
    const size_t width = static_cast<size_t>(sizes_.hidden_size);
    std::vector<float> embeds, vectors;
    embed(engines_->table("text_embed"), question_.ids, width, embeds);
    for (const Image& each : question_.images) see(each, vectors, cancel);
    size_t next = 0;
    for (size_t i = 0; i < question_.ids.size() && next < vectors.size(); ++i) {
      if (question_.ids[i] != engines_->bundle().encoder->image_placeholder()) continue;
      std::copy_n(vectors.begin() + static_cast<std::ptrdiff_t>(next), width,
                  embeds.begin() + static_cast<std::ptrdiff_t>(i * width));
      next += width;
    }
    return embeds;
  }

  // Append the vectors (N, D) of an image to those of the images before it.
  void see(const Image& image, std::vector<float>& vectors, const Cancel& cancel) {
    const int64_t side = sizes_.image_size, tokens = sizes_.num_image_tokens, width = sizes_.hidden_size;
    const TensorInfo* out = engines_->bundle().component("vision_encoder").output("features");
    if (out == nullptr || out->shape.size() != 3)
      fail(JE_E_BUNDLE, engines_->bundle().manifest_file(), ": vision_encoder: no features; export the bundle again");
    const int64_t channels = out->shape[2].size;
    const std::vector<float> pixels = prepare(image, static_cast<int>(side));
    std::vector<float> features(static_cast<size_t>(tokens * channels));
    const Tensor between = floats("features", {1, tokens, channels}, features.data());
    engines_->stage("vision_encoder")(floats("pixels", {1, 3, side, side}, pixels.data()), between, cancel);
    const size_t start = vectors.size();
    vectors.resize(start + static_cast<size_t>(tokens * width));
    engines_->stage("vision_aligner")(between, floats("embeds", {1, tokens, width}, vectors.data() + start), cancel);
  }

  void take_token(Events& events, const Cancel& cancel) {
    const size_t size = static_cast<size_t>(sizes_.vocab_size);
    if (position_ > 0) {
      std::vector<float> embeds;
      embed(engines_->table("text_embed"), {token_}, static_cast<size_t>(sizes_.hidden_size), embeds);
      hidden_ = decoder_->step(embeds, cancel);
    }
    logits_.resize(size);
    engines_->head("text_head")(hidden_, 1, logits_.data(), cancel);
    const NoiseAt noise{question_.seed, Stream::kText, static_cast<uint32_t>(position_)};
    token_ = choose(logits_.data(), size, question_.choice, noise);
    ++position_;
    if (engines_->bundle().encoder->stops(token_)) return end(events);
    tell(events, stream_.take(token_));
    is_over_ = stream_.is_over();
  }

  void end(Events& events) {
    tell(events, stream_.rest());
    is_over_ = true;
  }

  static void tell(Events& events, std::string text) {
    if (text.empty()) return;
    Event& event = events.emplace_back();
    event.kind = JE_EVENT_TEXT;
    event.text = std::move(text);
  }

  std::shared_ptr<Engines> engines_;
  const Sizes& sizes_;
  Question question_;
  TextStream stream_;
  std::unique_ptr<CachedDecoder> decoder_;
  const float* hidden_ = nullptr;
  std::vector<float> logits_;
  int64_t most_, position_ = 0, token_ = 0;
  bool is_over_ = false;
};

}  // namespace

std::unique_ptr<Task> answer(std::shared_ptr<Engines> engines, Question question) {
  return std::make_unique<Answer>(std::move(engines), std::move(question));
}

}  // namespace je
