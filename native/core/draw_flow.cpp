// Draws with JanusFlow: a latent along its velocity field, then the VAE's decoder. Mirrors runtime/draw_flow.py, which
// gives the reasons.
#include <algorithm>

#include "error.hpp"
#include "previews.hpp"
#include "task.hpp"

namespace je {
namespace {

// The velocity field of a prompt. The prompt's keys and values are computed once.
class Field {
 public:
  // shown_images: of the turns before.
  Field(Engines& engines, const Ids& ids, const std::vector<Image>& shown_images, double guidance_scale,
        const Cancel& cancel)
      : engines_(engines), sizes_(engines.sizes()), guidance_scale_(guidance_scale), cancel_(cancel) {
    const Ids shown(
        ids.begin(),
        ids.end() - 1);  // without the last id, which says that an image follows: the vector of t takes its place
    for (int64_t i = 0; i <= num_tokens(); ++i) positions_.push_back(static_cast<int64_t>(shown.size()) + i);
    const Embedded prompt = embedded(engines, {shown}, shown_images, cancel)[0];
    conditional_ = prefilled(prompt, shown.size());
    unconditional_ = prefilled(prompt, 1);  // it has seen the first token alone
    const TensorInfo* skip = engines.bundle().component("flow_encoder").output("skip");
    for (size_t i = 1; skip != nullptr && i < skip->shape.size(); ++i) skip_.push_back(skip->shape[i].size);
    if (skip_.size() != 3 || std::count(skip_.begin(), skip_.end(), 0) > 0)
      fail(JE_E_BUNDLE, engines.bundle().manifest_file(),
           ": flow_encoder: no skip of fixed size; export the bundle again");
  }

  Latent velocity(const Latent& z, double t, bool is_guided) {
    const int64_t width = sizes_.hidden_size, tokens = num_tokens();
    const size_t rows = is_guided ? 2 : 1, one_skip = static_cast<size_t>(skip_[0] * skip_[1] * skip_[2]);
    const float at = static_cast<float>(t);
    std::vector<float> embeds(static_cast<size_t>((tokens + 1) * width));  // the vector of t, then the image tokens
    std::vector<float> skip(rows * one_skip);
    engines_.graph("flow_encoder")
        .run({floats("latent", latent_shape(1), z.data()), floats("t", {1}, &at)},
             {floats("tokens", {1, tokens, width}, embeds.data() + width), floats("time", {1, width}, embeds.data()),
              floats("skip", skip_shape(1), skip.data())},
             cancel_);
    std::vector<float> hidden, time;
    for (size_t row = 0; row < rows; ++row) {
      const float* states = (row == 0 ? conditional_ : unconditional_)->look_ahead(embeds, 1, positions_, cancel_);
      hidden.insert(hidden.end(), states + width, states + (tokens + 1) * width);
      time.insert(time.end(), embeds.begin(), embeds.begin() + width);
      std::copy_n(skip.begin(), one_skip, skip.begin() + static_cast<std::ptrdiff_t>(row * one_skip));
    }
    const int64_t count = static_cast<int64_t>(rows);
    Latent v(rows * z.size());
    engines_.graph("flow_decoder")
        .run({floats("hidden", {count, tokens, width}, hidden.data()), floats("skip", skip_shape(count), skip.data()),
              floats("time", {count, width}, time.data())},
             {floats("velocity", latent_shape(count), v.data())}, cancel_);
    if (is_guided) guide(v.data(), v.data() + z.size(), guidance_scale_, z.size());
    v.resize(z.size());
    return v;
  }

  std::vector<int64_t> latent_shape(int64_t rows) const {
    return {rows, sizes_.latent_channels, sizes_.latent_size, sizes_.latent_size};
  }

 private:
  int64_t num_tokens() const { return sizes_.latent_grid * sizes_.latent_grid; }
  std::vector<int64_t> skip_shape(int64_t rows) const { return {rows, skip_[0], skip_[1], skip_[2]}; }

  // Return a decoder that has computed the first `count` positions of a prompt.
  std::unique_ptr<CachedDecoder> prefilled(const Embedded& prompt, size_t count) {
    const int64_t length = static_cast<int64_t>(count);
    auto made = make_decoder(engines_, 1, length + num_tokens() + 1, false, true);
    const auto first = [&](const auto& from, size_t size) {
      return std::decay_t<decltype(from)>(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(size));
    };
    if (engines_.uses_cpu_kernels()) engines_.kept().restore(*made, 0, first(prompt.key, count));
    made->prefill(first(prompt.embeds, count * static_cast<size_t>(sizes_.hidden_size)), {length}, cancel_);
    return made;
  }

  Engines& engines_;
  const Sizes& sizes_;
  double guidance_scale_;
  const Cancel& cancel_;
  std::vector<int64_t> positions_, skip_;
  std::unique_ptr<CachedDecoder> conditional_, unconditional_;
};

class DrawFlow : public Task {
 public:
  DrawFlow(std::shared_ptr<Engines> engines, const FlowSettings& settings, Drawing drawing)
      : engines_(std::move(engines)),
        sizes_(engines_->sizes()),
        settings_(settings),
        drawing_(std::move(drawing)),
        planned_(drawing_.planned) {}

  bool advance(Events& events, const Cancel& cancel) override {
    if (next_ == planned_.size()) return false;
    if (!flow_)
      begin(cancel);
    else if (!flow_->is_done())
      step(events, cancel);
    else
      finish(events, cancel);
    return true;
  }

 private:
  void begin(const Cancel& cancel) {
    const PlannedImage& planned = planned_[next_];
    if (!field_ || planned.ids != planned_[next_ - 1].ids) {
      const DecoderNames names = engines_->decoder_names(false, true);
      engines_->open(with_previews(*engines_, {names.step, "flow_encoder", "flow_decoder"}, drawing_.has_previews));
      field_.reset();
      field_ = std::make_unique<Field>(*engines_, planned.ids, drawing_.shown, settings_.guidance_scale, cancel);
    }
    const size_t count = static_cast<size_t>(sizes_.latent_channels * sizes_.latent_size * sizes_.latent_size);
    const auto velocity = [this](const Latent& z, double t, bool is_guided) {
      return field_->velocity(z, t, is_guided);
    };
    flow_ = std::make_unique<Flow>(velocity, normal(planned.seed, count), settings_);
  }

  void step(Events& events, const Cancel& cancel) {
    flow_->step();
    const PlannedImage& planned = planned_[next_];
    Event& progress = events.emplace_back();
    progress.unit = "steps";
    progress.done = planned.index * settings_.num_steps + flow_->done();
    progress.total = static_cast<int64_t>(planned_.size()) * settings_.num_steps;
    if (!drawing_.has_previews) return;
    Event& preview = events.emplace_back();
    preview.kind = JE_EVENT_PREVIEW;
    preview.index = planned.index;
    preview.done = flow_->done();
    preview.total = settings_.num_steps;
    preview.unit = "steps";
    preview.image = preview_of_latent(*engines_, flow_->denoised(), cancel);
  }

  void finish(Events& events, const Cancel& cancel) {
    const Latent& z = flow_->z();
    Image image = decode_image(*engines_, "image_decoder", floats("latent", field_->latent_shape(1), z.data()), cancel);
    Event& event = events.emplace_back();
    event.kind = JE_EVENT_IMAGE;
    event.image = std::move(image);
    event.index = planned_[next_].index;
    event.seed = planned_[next_].seed;
    event.latent = z;
    flow_.reset();
    ++next_;
  }

  std::shared_ptr<Engines> engines_;
  const Sizes& sizes_;
  FlowSettings settings_;
  Drawing drawing_;
  const std::vector<PlannedImage>& planned_;
  size_t next_ = 0;
  std::unique_ptr<Field> field_;
  std::unique_ptr<Flow> flow_;
};

}  // namespace

std::unique_ptr<Task> draw_flow(std::shared_ptr<Engines> engines, const FlowSettings& settings, Drawing drawing) {
  return std::make_unique<DrawFlow>(std::move(engines), settings, std::move(drawing));
}

}  // namespace je
