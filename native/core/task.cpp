#include "task.hpp"

#include <algorithm>
#include <utility>

namespace je {

void embed(const Table& table, const Ids& ids, size_t width, std::vector<float>& to) {
  const size_t start = to.size();
  to.resize(start + ids.size() * width);
  for (size_t i = 0; i < ids.size(); ++i) table.copy_row(ids[i], to.data() + start + i * width);
}

std::unique_ptr<CachedDecoder> make_decoder(Engines& engines, int64_t rows, int64_t length, bool needs_steps,
                                            bool has_prefill) {
  const DecoderNames names = engines.decoder_names(needs_steps, has_prefill);
  engines.open({names.step, names.prefill});
  const Dimension& slots = engines.bundle().manifest.cache.shape[2];
  return std::make_unique<CachedDecoder>(engines.decoder(names.step), engines.decoder(names.prefill),
                                         engines.sizes().hidden_size, rows, slots.name.empty() ? slots.size : length);
}

std::vector<float> compute_prompts(Engines& engines, CachedDecoder& decoder, std::vector<Embedded> prompts,
                                   std::vector<size_t> sources, const Cancel& cancel) {
  const size_t width = static_cast<size_t>(engines.sizes().hidden_size);
  if (!decoder.is_on_host()) {  // its rows cannot be copied here
    std::vector<Embedded> all;
    for (size_t row = 0; row < sources.size(); ++row) all.push_back(prompts[std::exchange(sources[row], row)]);
    prompts = std::move(all);
  }
  size_t longest = 0;
  for (const Embedded& each : prompts) longest = std::max(longest, each.key.size());
  const bool keeps = engines.uses_cpu_kernels();
  std::vector<float> embeds, hidden;
  std::vector<int64_t> lengths;
  for (size_t place = 0; place < prompts.size(); ++place) {
    if (keeps) engines.kept().restore(decoder, place, prompts[place].key);
    lengths.push_back(static_cast<int64_t>(prompts[place].key.size()));
    embeds.insert(embeds.end(), prompts[place].embeds.begin(), prompts[place].embeds.end());
    embeds.resize((place + 1) * longest * width);
  }
  const float* found = decoder.prefill(embeds, lengths, cancel);
  for (size_t place = 0; keeps && place < prompts.size(); ++place)
    engines.kept().keep_row(decoder, place, prompts[place].key);
  decoder.repeat(sources);
  for (const size_t source : sources) hidden.insert(hidden.end(), found + source * width, found + (source + 1) * width);
  return hidden;
}

Image decode_image(Engines& engines, const std::string& decoder, const Tensor& from, const Cancel& cancel) {
  const int64_t side = engines.sizes().image_size;
  const Stage& stage = engines.stage(decoder);  // it checks sizes before memory is taken
  std::vector<float> pixels(static_cast<size_t>(3 * side * side));
  stage(from, floats("pixels", {1, 3, side, side}, pixels.data()), cancel);
  return to_image(pixels.data(), static_cast<int>(side));
}

}  // namespace je
