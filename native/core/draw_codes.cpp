// Draws with Janus and Janus-Pro: one code after the other, then the VQ decoder. Mirrors runtime/draw_codes.py and
// decode_codes of runtime/decode.py.
#include <algorithm>

#include "task.hpp"

namespace je {
namespace {

// Images that are drawn together. Its rows are the conditional ones, then the unconditional ones.
struct Batch {
  std::vector<PlannedImage> planned;
  std::unique_ptr<CachedDecoder> decoder;  // freed with its KV caches once all codes are drawn
  const float* hidden = nullptr;           // (R, D): hidden states of the newest positions
  std::vector<std::vector<int64_t>> codes;
  size_t num_decoded = 0;
};

class DrawCodes : public Task {
 public:
  DrawCodes(std::shared_ptr<Engines> engines, const CodeSettings& settings, std::vector<PlannedImage> planned,
            bool has_previews)
      : engines_(std::move(engines)),
        sizes_(engines_->sizes()),
        settings_(settings),
        planned_(std::move(planned)),
        has_previews_(has_previews),
        num_codes_(static_cast<size_t>(sizes_.code_grid * sizes_.code_grid)) {}

  bool advance(Events& events, const Cancel& cancel) override {
    if (batch_.num_decoded == batch_.planned.size()) {
      if (next_ == planned_.size()) return false;
      begin(cancel);
    } else if (batch_.codes[0].size() < num_codes_) {
      draw_code(events, cancel);
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
    batch_.codes.resize(count);
    engines_->open({"decoder", "image_head"});
    prefill(cancel);
  }

  void prefill(const Cancel& cancel) {
    std::vector<Ids> rows;
    for (const PlannedImage& each : batch_.planned) rows.push_back(each.ids);
    if (settings_.is_guided())
      for (const PlannedImage& each : batch_.planned)
        rows.push_back(engines_->bundle().encoder->unconditional(each.ids));
    size_t longest = 0;
    std::vector<int64_t> lengths;
    for (const Ids& each : rows) {
      longest = std::max(longest, each.size());
      lengths.push_back(static_cast<int64_t>(each.size()));
    }
    std::vector<float> embeds;
    for (Ids& each : rows) {
      each.resize(longest, 0);
      embed(engines_->table("text_embed"), each, static_cast<size_t>(sizes_.hidden_size), embeds);
    }
    batch_.decoder = make_decoder(*engines_, static_cast<int64_t>(rows.size()),
                                  static_cast<int64_t>(longest + num_codes_), true, false);
    batch_.hidden = batch_.decoder->prefill(embeds, lengths, cancel);
  }

  void draw_code(Events& events, const Cancel& cancel) {
    const size_t position = batch_.codes[0].size(), count = batch_.planned.size();
    if (position > 0) step(cancel);
    const size_t size = static_cast<size_t>(sizes_.codebook_size);
    logits_.resize(num_rows() * size);
    engines_->head("image_head")(batch_.hidden, static_cast<int64_t>(num_rows()), logits_.data(), cancel);
    for (size_t i = 0; i < count; ++i) {
      float* logits = logits_.data() + i * size;
      if (settings_.is_guided()) guide(logits, logits + count * size, settings_.guidance_scale, size);
      const NoiseAt noise{batch_.planned[i].seed, Stream::kImage, static_cast<uint32_t>(position)};
      batch_.codes[i].push_back(choose(logits, size, settings_.choice, noise));
    }
    add_events(events);
    if (position + 1 == num_codes_) batch_.decoder.reset();
  }

  void step(const Cancel& cancel) {
    const Table& table = engines_->table("code_embed");
    std::vector<float> embeds;
    for (size_t row = 0; row < num_rows(); ++row)
      embed(table, {batch_.codes[row % batch_.codes.size()].back()}, static_cast<size_t>(sizes_.hidden_size), embeds);
    batch_.hidden = batch_.decoder->step(embeds, cancel);
  }

  void add_events(Events& events) {
    const int64_t count = static_cast<int64_t>(batch_.planned.size());
    const int64_t each = static_cast<int64_t>(num_codes_);
    const int64_t drawn = static_cast<int64_t>(batch_.codes[0].size());
    Event& progress = events.emplace_back();
    progress.unit = "codes";
    progress.done = batch_.planned[0].index * each + drawn * count;
    progress.total = static_cast<int64_t>(planned_.size()) * each;
    if (!has_previews_ || drawn % sizes_.code_grid != 0) return;
    for (size_t i = 0; i < batch_.planned.size(); ++i) {
      Event& preview = events.emplace_back();
      preview.kind = JE_EVENT_PREVIEW;
      preview.index = batch_.planned[i].index;
      preview.done = drawn;
      preview.total = each;
      preview.unit = "codes";
      preview.image = preview_of(batch_.codes[i]);
    }
  }

  // Return a preview: one cell per code drawn so far; the other cells are grey.
  Image preview_of(const std::vector<int64_t>& codes) {
    std::vector<float> cells(3 * num_codes_, kPadding);
    const Table& table = engines_->table("preview");
    for (size_t i = 0; i < codes.size(); ++i) table.copy_row(codes[i], cells.data() + 3 * i);
    return enlarge(cells, static_cast<int>(sizes_.code_grid), static_cast<int>(sizes_.image_size / sizes_.code_grid));
  }

  void finish_one(Events& events, const Cancel& cancel) {
    const size_t i = batch_.num_decoded++;
    const std::vector<int64_t>& codes = batch_.codes[i];
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
  std::vector<PlannedImage> planned_;
  bool has_previews_;
  size_t num_codes_, next_ = 0;
  Batch batch_;
  std::vector<float> logits_;
};

}  // namespace

std::unique_ptr<Task> draw_codes(std::shared_ptr<Engines> engines, const CodeSettings& settings,
                                 std::vector<PlannedImage> planned, bool has_previews) {
  return std::make_unique<DrawCodes>(std::move(engines), settings, std::move(planned), has_previews);
}

}  // namespace je
