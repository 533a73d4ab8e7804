#include "task.hpp"

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

Image decode_image(Engines& engines, const std::string& decoder, const Tensor& from, const Cancel& cancel) {
  const int64_t side = engines.sizes().image_size;
  std::vector<float> pixels(static_cast<size_t>(3 * side * side));
  engines.stage(decoder)(from, floats("pixels", {1, 3, side, side}, pixels.data()), cancel);
  return to_image(pixels.data(), static_cast<int>(side));
}

}  // namespace je
