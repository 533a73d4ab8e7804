#include "previews.hpp"

#include <algorithm>

#include "task.hpp"

namespace je {
namespace {

bool has_preview_decoder(const Engines& engines) {
  return engines.bundle().manifest.components.count(kPreviewDecoder) > 0;
}

// Map a latent's channels to colours. The constant is added first, then one channel after the other.
Image linear_preview(Engines& engines, const Latent& latent) {
  const Table& table = engines.table("preview");
  const Sizes& sizes = engines.sizes();
  const size_t side = static_cast<size_t>(sizes.latent_size), plane = side * side;
  std::vector<float> cells(3 * plane);
  float colour[3];
  table.copy_row(sizes.latent_channels, colour);
  for (size_t i = 0; i < plane; ++i) std::copy_n(colour, 3, cells.data() + 3 * i);
  for (int64_t channel = 0; channel < sizes.latent_channels; ++channel) {
    table.copy_row(channel, colour);
    const float* values = latent.data() + static_cast<size_t>(channel) * plane;
    for (size_t i = 0; i < plane; ++i)
      for (size_t c = 0; c < 3; ++c) cells[3 * i + c] = cells[3 * i + c] + values[i] * colour[c];
  }
  return enlarge(cells, static_cast<int>(side), static_cast<int>(sizes.image_size / sizes.latent_size));
}

}  // namespace

std::vector<std::string> with_previews(const Engines& engines, std::vector<std::string> names, bool are_wanted) {
  if (are_wanted && has_preview_decoder(engines)) names.emplace_back(kPreviewDecoder);
  return names;
}

Image preview_of_codes(Engines& engines, const std::vector<int64_t>& codes, size_t drawn, const Cancel& cancel) {
  const Sizes& sizes = engines.sizes();
  const size_t count = static_cast<size_t>(sizes.code_grid * sizes.code_grid);
  if (has_preview_decoder(engines)) {
    std::vector<int64_t> all(count, sizes.codebook_size);  // which stands for a code that is not drawn yet
    std::copy_n(codes.begin(), drawn, all.begin());
    return decode_image(engines, kPreviewDecoder, integers("codes", {1, static_cast<int64_t>(count)}, all.data()),
                        cancel);
  }
  std::vector<float> cells(3 * count, kPadding);
  const Table& table = engines.table("preview");
  for (size_t i = 0; i < drawn; ++i) table.copy_row(codes[i], cells.data() + 3 * i);
  return enlarge(cells, static_cast<int>(sizes.code_grid), static_cast<int>(sizes.image_size / sizes.code_grid));
}

Image preview_of_latent(Engines& engines, const Latent& latent, const Cancel& cancel) {
  if (!has_preview_decoder(engines)) return linear_preview(engines, latent);
  const Sizes& sizes = engines.sizes();
  const std::vector<int64_t> shape{1, sizes.latent_channels, sizes.latent_size, sizes.latent_size};
  return decode_image(engines, kPreviewDecoder, floats("latent", shape, latent.data()), cancel);
}

}  // namespace je
