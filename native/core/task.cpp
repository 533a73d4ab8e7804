#include "task.hpp"

namespace je {

void embed(const Table& table, const Ids& ids, size_t width, std::vector<float>& to) {
  const size_t start = to.size();
  to.resize(start + ids.size() * width);
  for (size_t i = 0; i < ids.size(); ++i) table.copy_row(ids[i], to.data() + start + i * width);
}

std::unique_ptr<Decoder> make_decoder(Engines& engines, int64_t rows, int64_t length, bool needs_steps, bool has_many) {
  const Decoders names = engines.decoders(needs_steps, has_many);
  engines.open({names.step, names.wide});
  const Dimension& slots = engines.bundle().manifest.cache.shape[2];
  return std::make_unique<Decoder>(engines.decoder(names.step), engines.decoder(names.wide),
                                   engines.sizes().hidden_size, rows, slots.name.empty() ? slots.size : length);
}

Picture decode_picture(Engines& engines, const Tensor& from, const Cancel& cancel) {
  const int64_t side = engines.sizes().image_size;
  std::vector<float> pixels(static_cast<size_t>(3 * side * side));
  engines.graph("image_decoder").run({from}, {floats("pixels", {1, 3, side, side}, pixels.data())}, cancel);
  return to_picture(pixels.data(), static_cast<int>(side));
}

}  // namespace je
