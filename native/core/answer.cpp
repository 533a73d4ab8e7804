// Answers questions: images become vectors inside the prompt, and tokens become text. Mirrors runtime/answer.py and
// decode_text of runtime/decode.py.
#include <algorithm>

#include "drafts.hpp"
#include "error.hpp"
#include "passes.hpp"
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
    else if (next_ < chosen_.size())
      take_token(events);
    else if (position_ < most_)
      run_pass(cancel);
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
    const Embedded prompt = embedded(*engines_, {question_.ids}, question_.images, cancel)[0];
    key_ = prompt.key;
    const int64_t length = static_cast<int64_t>(question_.ids.size());
    passes_.emplace(passes_for(*engines_, 1, "text_head", question_.parallel));
    decoder_ = make_decoder(*engines_, 1, length + most_, true, true);
    engines_->kept().restore(*decoder_, 0, key_);
    choose_tokens(decoder_->prefill(prompt.embeds, {length}, cancel), {question_.ids.back()}, cancel);
  }

  void run_pass(const Cancel& cancel) {
    const int64_t most = std::min({passes_->widest(), most_ - position_, decoder_->room()});
    Ids given = looked_up(question_.ids, static_cast<size_t>(most - 1));
    given.insert(given.begin(), question_.ids.back());
    given.resize(static_cast<size_t>(passes_->begin(static_cast<int64_t>(given.size()))));
    std::vector<float> embeds;
    embed(engines_->table("text_embed"), given, static_cast<size_t>(sizes_.hidden_size), embeds);
    choose_tokens(decoder_->look_ahead(embeds, 1, {}, cancel), given, cancel);
    const std::vector<int64_t> right{static_cast<int64_t>(chosen_.size())};
    decoder_->keep(right);
    passes_->end(right);
  }

  // Choose the tokens that follow hidden states (T, D), as long as the tokens that were given are right.
  void choose_tokens(const float* hidden, const Ids& given, const Cancel& cancel) {
    const size_t size = static_cast<size_t>(sizes_.vocab_size);
    logits_.resize(given.size() * size);
    engines_->head("text_head")(hidden, static_cast<int64_t>(given.size()), logits_.data(), cancel);
    chosen_.clear();
    next_ = 0;
    do {
      const NoiseAt noise{question_.seed, Stream::kText,
                          static_cast<uint32_t>(position_ + static_cast<int64_t>(next_))};
      chosen_.push_back(choose(logits_.data() + next_ * size, size, question_.choice, noise));
      ++next_;
    } while (next_ < given.size() && chosen_.back() == given[next_]);
    next_ = 0;
  }

  void take_token(Events& events) {
    const int64_t token = chosen_[next_++];
    ++position_;
    if (engines_->bundle().encoder->stops(token)) return end(events);
    question_.ids.push_back(token);
    key_.push_back(token);
    tell(events, stream_.take(token));
    if (stream_.is_over()) finish();
  }

  void end(Events& events) {
    tell(events, stream_.rest());
    finish();
  }

  // Keep what was computed for what follows.
  void finish() {
    is_over_ = true;
    passes_->keep();
    engines_->kept().keep_row(*decoder_, 0, key_);
    decoder_.reset();
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
  std::optional<Passes> passes_;
  Key key_;
  std::vector<float> logits_;
  Ids chosen_;       // tokens that the last pass chose
  size_t next_ = 0;  // the first of them that was not taken yet
  int64_t most_, position_ = 0;
  bool is_over_ = false;
};

}  // namespace

std::unique_ptr<Task> answer(std::shared_ptr<Engines> engines, Question question) {
  return std::make_unique<Answer>(std::move(engines), std::move(question));
}

}  // namespace je
