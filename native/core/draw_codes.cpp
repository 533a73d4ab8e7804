// Draws with Janus and Janus-Pro: one or several codes at a time, then the VQ decoder. Mirrors runtime/draw_codes.py
// and decode_codes of runtime/decode.py. Shapes: B images, R rows, T positions, D width, V codes.
#include <algorithm>
#include <utility>

#include "error.hpp"
#include "passes.hpp"
#include "task.hpp"

namespace je {
namespace {

// The codes of an image: those that are drawn, and behind them drafts of what may follow.
struct Drafts {
  std::vector<int64_t> codes;  // with room for a pass behind the last one
  size_t drawn = 0;

  // Accept the codes that a pass chose from drawn codes alone; keep the others as drafts. Its first code is one of
  // them. Each further one is if the draft before it was right. Return how many codes were added, up to num_codes.
  int64_t take(const std::vector<int64_t>& chosen, size_t num_codes) {
    size_t accepted = 1;
    while (accepted < chosen.size() && codes[drawn + accepted - 1] == chosen[accepted - 1]) ++accepted;
    const auto behind = std::copy(chosen.begin(), chosen.end(), codes.begin() + static_cast<std::ptrdiff_t>(drawn));
    std::fill(behind, codes.end(), chosen.back());
    accepted = std::min(accepted, num_codes - drawn);
    drawn += accepted;
    return static_cast<int64_t>(accepted);
  }
};

// Images that are drawn together. Its rows are the conditional ones, then the unconditional ones.
struct Batch {
  std::vector<PlannedImage> planned;
  std::unique_ptr<CachedDecoder> decoder;  // freed with its KV caches once all codes are drawn
  std::optional<Passes> passes;
  std::vector<Drafts> drafts;  // one per image
  size_t shown = 0;            // positions that all images have and that were told
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
    batch_.passes.emplace(passes_for(*engines_, static_cast<int64_t>(num_rows()), "image_head", settings_.parallel));
    const size_t room = num_codes_ + static_cast<size_t>(batch_.passes->widest());
    batch_.drafts.assign(count, {std::vector<int64_t>(room)});
    engines_->open({"decoder", "image_head"});
    prefill(cancel);
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
    choose_codes(compute(embedded(*engines_, different, drawing_.shown, cancel), sources, cancel).data(), 1, cancel);
  }

  // Compute each prompt once and return the hidden states (R, D) of the rows' last positions. Prompts are kept where
  // results do not depend on what is computed together. sources (R): the prompt of each row.
  std::vector<float> compute(std::vector<Embedded> prompts, std::vector<size_t> sources, const Cancel& cancel) {
    const size_t rows = sources.size(), width = static_cast<size_t>(sizes_.hidden_size);
    size_t longest = 0;
    for (const Embedded& each : prompts) longest = std::max(longest, each.key.size());
    const int64_t positions = static_cast<int64_t>(longest + num_codes_) + batch_.passes->widest();
    batch_.decoder =
        make_decoder(*engines_, static_cast<int64_t>(rows), std::min(positions, sizes_.max_length), true, false);
    CachedDecoder& decoder = *batch_.decoder;
    if (!decoder.is_on_host()) {  // its rows cannot be copied here
      std::vector<Embedded> all;
      for (size_t row = 0; row < rows; ++row) all.push_back(prompts[std::exchange(sources[row], row)]);
      prompts = std::move(all);
    }
    const bool keeps = engines_->uses_cpu_kernels();
    std::vector<float> embeds, hidden;
    std::vector<int64_t> lengths;
    for (size_t place = 0; place < prompts.size(); ++place) {
      if (keeps) engines_->kept().restore(decoder, place, prompts[place].key);
      lengths.push_back(static_cast<int64_t>(prompts[place].key.size()));
      embeds.insert(embeds.end(), prompts[place].embeds.begin(), prompts[place].embeds.end());
      embeds.resize((place + 1) * longest * width);
    }
    const float* found = decoder.prefill(embeds, lengths, cancel);
    for (size_t place = 0; keeps && place < prompts.size(); ++place)
      engines_->kept().keep_row(decoder, place, prompts[place].key);
    decoder.repeat(sources);
    for (const size_t source : sources)
      hidden.insert(hidden.end(), found + source * width, found + (source + 1) * width);
    return hidden;
  }

  // Run a pass, if it is not the first: the prompt's prefill has chosen the first codes.
  void draw_codes(Events& events, const Cancel& cancel) {
    if (batch_.shown == fewest()) run_pass(cancel);
    while (batch_.shown < fewest()) {
      ++batch_.shown;
      add_events(events);
    }
    if (batch_.shown < num_codes_) return;
    batch_.passes->keep();
    batch_.decoder.reset();
  }

  // Return how many positions all images have.
  size_t fewest() const {
    const auto fewer = [](const Drafts& a, const Drafts& b) { return a.drawn < b.drawn; };
    return std::min_element(batch_.drafts.begin(), batch_.drafts.end(), fewer)->drawn;
  }

  void run_pass(const Cancel& cancel) {
    const int64_t left = static_cast<int64_t>(num_codes_ - batch_.shown);
    const size_t time = static_cast<size_t>(batch_.passes->begin(std::min(left, batch_.decoder->room())));
    const Table& table = engines_->table("code_embed");
    std::vector<float> embeds;
    for (size_t row = 0; row < num_rows(); ++row) {
      const Drafts& drafts = batch_.drafts[row % batch_.drafts.size()];
      const auto last = drafts.codes.begin() + static_cast<std::ptrdiff_t>(drafts.drawn) - 1;
      embed(table, {last, last + static_cast<std::ptrdiff_t>(time)}, static_cast<size_t>(sizes_.hidden_size), embeds);
    }
    std::vector<int64_t> accepted = choose_codes(batch_.decoder->look_ahead(embeds, {}, cancel), time, cancel);
    batch_.passes->end(accepted);
    const std::vector<int64_t> of_images = accepted;
    if (settings_.is_guided()) accepted.insert(accepted.end(), of_images.begin(), of_images.end());
    batch_.decoder->keep(accepted);
  }

  // Choose the codes that follow hidden states (R, T, D). Return how many were added to each image.
  std::vector<int64_t> choose_codes(const float* hidden, size_t time, const Cancel& cancel) {
    const size_t size = static_cast<size_t>(sizes_.codebook_size), count = batch_.planned.size();
    logits_.resize(num_rows() * time * size);
    engines_->head("image_head")(hidden, static_cast<int64_t>(num_rows() * time), logits_.data(), cancel);
    std::vector<int64_t> added;
    for (size_t i = 0; i < count; ++i) {
      std::vector<int64_t> chosen;
      for (size_t t = 0; t < time; ++t) {
        float* logits = logits_.data() + (i * time + t) * size;
        if (settings_.is_guided()) guide(logits, logits + count * time * size, settings_.guidance_scale, size);
        const size_t position = std::min(batch_.drafts[i].drawn + t, num_codes_ - 1);
        const NoiseAt noise{batch_.planned[i].seed, Stream::kImage, static_cast<uint32_t>(position)};
        chosen.push_back(choose(logits, size, settings_.choice, noise));
      }
      added.push_back(batch_.drafts[i].take(chosen, num_codes_));
    }
    return added;
  }

  void add_events(Events& events) {
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
      preview.image = preview_of(batch_.drafts[i].codes, batch_.shown);
    }
  }

  // Return a preview: one cell per code drawn so far; the other cells are grey.
  Image preview_of(const std::vector<int64_t>& codes, size_t drawn) {
    std::vector<float> cells(3 * num_codes_, kPadding);
    const Table& table = engines_->table("preview");
    for (size_t i = 0; i < drawn; ++i) table.copy_row(codes[i], cells.data() + 3 * i);
    return enlarge(cells, static_cast<int>(sizes_.code_grid), static_cast<int>(sizes_.image_size / sizes_.code_grid));
  }

  void finish_one(Events& events, const Cancel& cancel) {
    const size_t i = batch_.num_decoded++;
    std::vector<int64_t>& codes = batch_.drafts[i].codes;
    codes.resize(num_codes_);
    const std::vector<int64_t> shape{1, static_cast<int64_t>(codes.size())};
    Image image = decode_image(*engines_, integers("codes", shape, codes.data()), cancel);
    Event& event = events.emplace_back();
    event.kind = JE_EVENT_IMAGE;
    event.image = std::move(image);
    event.index = batch_.planned[i].index;
    event.seed = batch_.planned[i].seed;
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
