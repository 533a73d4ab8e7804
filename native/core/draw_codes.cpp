// Draws with Janus and Janus-Pro: one or several codes at a time, then the VQ decoder. Mirrors runtime/draw_codes.py
// and decode_codes of runtime/decode.py. Shapes: B images, R rows, T positions, D width, V codes.
#include <algorithm>
#include <array>
#include <utility>

#include "drafts.hpp"
#include "error.hpp"
#include "overlap.hpp"
#include "passes.hpp"
#include "previews.hpp"
#include "task.hpp"

namespace je {
namespace {

using Chosen = std::vector<int64_t>;  // codes of an image, or their positions

// Images that are drawn together. Its rows are the conditional ones, then the unconditional ones.
struct Batch {
  std::vector<PlannedImage> planned;
  std::unique_ptr<CachedDecoder> decoder;       // freed with its KV caches once all codes are drawn
  std::array<std::optional<Passes>, 3> passes;  // by rows of an image: 2 while it is guided, then 1
  std::vector<Drafts> drafts;                   // one per image
  std::vector<Step> steps;                      // of overlapping rows; none without a window
  size_t next_step = 0;
  std::vector<int64_t> lengths;       // of the rows' prompts
  std::unique_ptr<CudaCodes> on_gpu;  // draws the codes, with the decoder's caches
  size_t shown = 0;                   // positions that all images have and that were told
  size_t num_decoded = 0;
};

class DrawCodes : public Task {
 public:
  DrawCodes(std::shared_ptr<Engines> engines, const CodeSettings& settings, Drawing drawing)
      : engines_(std::move(engines)),
        sizes_(engines_->sizes()),
        settings_(settings),
        drawing_(std::move(drawing)),
        planned_(drawing_.planned),
        num_codes_(static_cast<size_t>(sizes_.code_grid * sizes_.code_grid)) {}

  bool advance(Events& events, const Cancel& cancel) override {
    if (batch_.num_decoded == batch_.planned.size()) {
      if (next_ == planned_.size()) return false;
      begin(cancel);
    } else if (batch_.shown < num_codes_) {
      draw_codes(events, cancel);
    } else {
      finish_one(events, cancel);
    }
    return true;
  }

 private:
  size_t num_rows() const { return batch_.planned.size() * (settings_.is_guided() ? 2 : 1); }

  void begin(const Cancel& cancel) {
    const size_t most_rows = static_cast<size_t>(engines_->bundle().component("decoder").profile.at("R").most);
    const size_t at_once = std::max<size_t>(1, most_rows / (settings_.is_guided() ? 2 : 1));
    const size_t count = std::min(at_once, planned_.size() - next_);
    batch_ = {};
    for (size_t i = 0; i < count; ++i) batch_.planned.push_back(planned_[next_++]);
    const int64_t parallel = settings_.window > 0 ? 1 : settings_.parallel;
    for (const size_t rows : {1, 2})
      batch_.passes[rows].emplace(passes_for(*engines_, static_cast<int64_t>(count * rows), "image_head", parallel));
    batch_.drafts.assign(count, {std::vector<int64_t>(num_codes_ + widest(), settings_.window > 0 ? -1 : 0)});
    if (settings_.window > 0)
      batch_.steps = steps_of(static_cast<size_t>(sizes_.code_grid), static_cast<size_t>(settings_.window));
    if (engines_->uses_cuda_kernels() && !has_gpu_loop())
      engines_->log(JE_LOG_WARNING, join("with top_p, a window, guidance_end or parallel ", engines_->device().text(),
                                         " waits for the host at each pass, which takes longer than without"));
    engines_->open(with_previews(*engines_, {"decoder", "image_head"}, drawing_.has_previews));
    prefill(cancel);
  }

  size_t widest() const {
    return static_cast<size_t>(std::max(batch_.passes[1]->widest(), batch_.passes[2]->widest()));
  }

  void prefill(const Cancel& cancel) {
    std::vector<Ids> rows;
    for (const PlannedImage& each : batch_.planned) rows.push_back(each.ids);
    if (settings_.is_guided())
      for (const PlannedImage& each : batch_.planned)
        rows.push_back(engines_->bundle().encoder->unconditional(each.ids));
    std::vector<Ids> different;
    std::vector<size_t> sources;  // which of them each row has
    for (const Ids& each : rows) {
      const auto known = std::find(different.begin(), different.end(), each);
      sources.push_back(static_cast<size_t>(known - different.begin()));
      if (known == different.end()) different.push_back(each);
    }
    batch_.lengths.clear();
    for (const Ids& each : rows) batch_.lengths.push_back(static_cast<int64_t>(each.size()));
    std::vector<Embedded> prompts = embedded(*engines_, different, drawing_.shown, cancel);
    const int64_t longest = *std::max_element(batch_.lengths.begin(), batch_.lengths.end());
    const int64_t length = std::min(longest + static_cast<int64_t>(num_codes_ + widest()), sizes_.max_length);
    batch_.decoder = make_decoder(*engines_, static_cast<int64_t>(rows.size()), length, true, false);
    const std::vector<float> hidden = compute_prompts(*engines_, *batch_.decoder, std::move(prompts), sources, cancel);
    if (has_gpu_loop()) return begin_on_gpu(hidden);
    const std::vector<Chosen> first(batch_.planned.size(), Chosen(1));
    const auto chosen = choose_codes(hidden.data(), num_rows(), first, cancel);
    for (size_t i = 0; i < chosen.size(); ++i)
      if (settings_.window > 0)
        batch_.drafts[i].codes[0] = chosen[i][0];
      else
        batch_.drafts[i].take(chosen[i], num_codes_);
  }

  // Run a pass, if it is not the first: the prompt's prefill has chosen the first codes.
  void draw_codes(Events& events, const Cancel& cancel) {
    if (batch_.shown == fewest()) run(cancel);
    while (batch_.shown < fewest()) {
      ++batch_.shown;
      add_events(events, cancel);
    }
    if (batch_.shown < num_codes_) return;
    for (const size_t rows : {1, 2}) batch_.passes[rows]->keep();
    batch_.on_gpu.reset();
    batch_.decoder.reset();
  }

  void run(const Cancel& cancel) {
    if (batch_.on_gpu) return run_on_gpu(cancel);
    settings_.window > 0 ? run_step(cancel) : run_pass(cancel);
  }

  // Return true if the GPU draws without the host (docs/gpu.md).
  bool has_gpu_loop() const {
    return engines_->uses_cuda_kernels() && settings_.choice.top_p == 1 && !settings_.is_approximate() &&
           settings_.parallel <= 1;
  }

  void begin_on_gpu(const std::vector<float>& hidden) {
    std::vector<uint64_t> seeds;
    for (const PlannedImage& each : batch_.planned) seeds.push_back(each.seed);
    const Choice& choice = settings_.choice;
    batch_.on_gpu = engines_->cuda_loop().begin({batch_.decoder->caches(), batch_.lengths, hidden, seeds,
                                                 settings_.guidance_scale, choice.temperature, choice.top_k});
  }

  // Take the next codes that the GPU has drawn.
  void run_on_gpu(const Cancel& cancel) {
    std::vector<int64_t> codes;
    const size_t end = batch_.on_gpu->draw(codes, cancel);
    for (size_t i = 0; i < batch_.drafts.size(); ++i) {
      const auto from = codes.begin() + static_cast<std::ptrdiff_t>(i * num_codes_);
      std::copy_n(from, end, batch_.drafts[i].codes.begin());
      batch_.drafts[i].drawn = end;
    }
  }

  // Return how many positions all images have.
  size_t fewest() const {
    size_t count = num_codes_;
    for (const Drafts& each : batch_.drafts) {
      const auto end = each.codes.begin() + static_cast<std::ptrdiff_t>(num_codes_);
      const size_t drawn = settings_.window == 0
                               ? each.drawn
                               : static_cast<size_t>(std::find(each.codes.begin(), end, -1) - each.codes.begin());
      count = std::min(count, drawn);
    }
    return count;
  }

  // Return the rows that a pass computes for each image if the first code that it draws is at `position`.
  size_t copies_at(size_t position) const {
    if (!settings_.is_guided()) return 1;
    return position < settings_.num_guided(num_codes_) || !batch_.decoder->is_on_host() ? 2 : 1;
  }

  void run_pass(const Cancel& cancel) {
    const size_t copies = copies_at(batch_.shown), count = batch_.drafts.size();
    const int64_t left = static_cast<int64_t>(num_codes_ - batch_.shown);
    Passes& passes = *batch_.passes[copies];
    const size_t time = static_cast<size_t>(passes.begin(std::min(left, batch_.decoder->room())));
    std::vector<float> embeds;
    std::vector<Chosen> positions;
    for (size_t row = 0; row < count * copies; ++row) {
      const Drafts& drafts = batch_.drafts[row % count];
      const auto last = drafts.codes.begin() + static_cast<std::ptrdiff_t>(drafts.drawn) - 1;
      embed(engines_->table("code_embed"), {last, last + static_cast<std::ptrdiff_t>(time)},
            static_cast<size_t>(sizes_.hidden_size), embeds);
      if (row >= count) continue;
      Chosen& at = positions.emplace_back();
      for (size_t t = 0; t < time; ++t) at.push_back(static_cast<int64_t>(std::min(drafts.drawn + t, num_codes_ - 1)));
    }
    const float* hidden = batch_.decoder->look_ahead(embeds, count * copies, {}, cancel);
    const auto chosen = choose_codes(hidden, count * copies, positions, cancel);
    std::vector<int64_t> accepted;
    for (size_t i = 0; i < count; ++i) accepted.push_back(batch_.drafts[i].take(chosen[i], num_codes_));
    passes.end(accepted);
    std::vector<int64_t> kept;
    for (size_t row = 0; row < count * copies; ++row) kept.push_back(accepted[row % count]);
    batch_.decoder->keep(kept);
  }

  // Run a pass of overlapping rows.
  void run_step(const Cancel& cancel) {
    const Step& step = batch_.steps[batch_.next_step++];
    const size_t count = batch_.drafts.size(), width = static_cast<size_t>(sizes_.hidden_size);
    Chosen drawn;
    for (const Place& each : step.places)
      if (each.follows >= 0) drawn.push_back(each.follows);
    const auto first = std::min_element(drawn.begin(), drawn.end());
    const size_t rows = count * copies_at(first == drawn.end() ? num_codes_ : static_cast<size_t>(*first));
    std::vector<float> embeds, hidden;
    std::vector<int64_t> positions;
    for (size_t row = 0; row < rows; ++row)
      for (const Place& each : step.places) {
        embed(engines_->table("code_embed"), {batch_.drafts[row % count].codes[each.read]}, width, embeds);
        positions.push_back(batch_.lengths[row] + static_cast<int64_t>(each.at));
      }
    const float* found = batch_.decoder->look_ahead(embeds, rows, std::move(positions), cancel);
    for (size_t row = 0; row < rows; ++row)
      for (const Place& each : step.places) {
        if (each.follows >= 0) hidden.insert(hidden.end(), found, found + width);
        found += width;
      }
    const auto chosen = choose_codes(hidden.data(), rows, std::vector<Chosen>(count, drawn), cancel);
    for (size_t i = 0; i < count; ++i)
      for (size_t t = 0; t < drawn.size(); ++t) batch_.drafts[i].codes[static_cast<size_t>(drawn[t])] = chosen[i][t];
    batch_.decoder->keep(std::vector<int64_t>(rows, static_cast<int64_t>(step.kept)));
  }

  // Choose the codes of positions (B, T) from hidden states (R, T, D). The first codes are guided.
  std::vector<Chosen> choose_codes(const float* hidden, size_t rows, const std::vector<Chosen>& positions,
                                   const Cancel& cancel) {
    const size_t size = static_cast<size_t>(sizes_.codebook_size), count = positions.size();
    const size_t time = positions[0].size(), guided = settings_.num_guided(num_codes_);
    logits_.resize(rows * time * size);
    engines_->head("image_head")(hidden, static_cast<int64_t>(rows * time), logits_.data(), cancel);
    std::vector<Chosen> chosen(count);
    for (size_t i = 0; i < count; ++i)
      for (size_t t = 0; t < time; ++t) {
        float* logits = logits_.data() + (i * time + t) * size;
        const size_t position = static_cast<size_t>(positions[i][t]);
        if (rows > count && position < guided)
          guide(logits, logits + count * time * size, settings_.guidance_scale, size);
        const NoiseAt noise{batch_.planned[i].seed, Stream::kImage, static_cast<uint32_t>(position)};
        chosen[i].push_back(choose(logits, size, settings_.choice, noise));
      }
    return chosen;
  }

  void add_events(Events& events, const Cancel& cancel) {
    const int64_t count = static_cast<int64_t>(batch_.planned.size());
    const int64_t each = static_cast<int64_t>(num_codes_);
    const int64_t drawn = static_cast<int64_t>(batch_.shown);
    Event& progress = events.emplace_back();
    progress.unit = "codes";
    progress.done = batch_.planned[0].index * each + drawn * count;
    progress.total = static_cast<int64_t>(planned_.size()) * each;
    if (!drawing_.has_previews || drawn % sizes_.code_grid != 0) return;
    for (size_t i = 0; i < batch_.planned.size(); ++i) {
      Event& preview = events.emplace_back();
      preview.kind = JE_EVENT_PREVIEW;
      preview.index = batch_.planned[i].index;
      preview.done = drawn;
      preview.total = each;
      preview.unit = "codes";
      preview.image = preview_of_codes(*engines_, batch_.drafts[i].codes, batch_.shown, cancel);
    }
  }

  void finish_one(Events& events, const Cancel& cancel) {
    const size_t i = batch_.num_decoded++;
    std::vector<int64_t>& codes = batch_.drafts[i].codes;
    codes.resize(num_codes_);
    const std::vector<int64_t> shape{1, static_cast<int64_t>(codes.size())};
    Image image = decode_image(*engines_, "image_decoder", integers("codes", shape, codes.data()), cancel);
    Event& event = events.emplace_back();
    event.kind = JE_EVENT_IMAGE;
    event.image = std::move(image);
    event.index = batch_.planned[i].index;
    event.seed = batch_.planned[i].seed;
    event.is_approximate = settings_.is_approximate();
    for (const int64_t code : codes) event.codes.push_back(static_cast<int32_t>(code));
  }

  std::shared_ptr<Engines> engines_;
  const Sizes& sizes_;
  CodeSettings settings_;
  Drawing drawing_;
  const std::vector<PlannedImage>& planned_;
  size_t num_codes_, next_ = 0;
  Batch batch_;
  std::vector<float> logits_;
};

}  // namespace

std::unique_ptr<Task> draw_codes(std::shared_ptr<Engines> engines, const CodeSettings& settings, Drawing drawing) {
  return std::make_unique<DrawCodes>(std::move(engines), settings, std::move(drawing));
}

}  // namespace je
