#include "tiles.hpp"

#include <cstring>
#include <string_view>

#include "error.hpp"
#include "files.hpp"

namespace je {
namespace {

constexpr int64_t kTile = TileLayout::kTile, kQuad = 4;
constexpr int64_t kScaleBytes = kTile * 4;
constexpr std::string_view kSuffix = ".tiles";  // of a name in the manifest

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// Write the weights and scales of output `o` of a tile's block. record: the block.
void write_output(GraphWeights& to, const TileLayout& layout, const uint8_t* record, int64_t o, size_t block) {
  const uint8_t* quads = record + kScaleBytes + kQuad * o;
  std::memcpy(&to.scales[block], record + 4 * o, 4);
  const int64_t bytes = layout.block * layout.bits / 8;
  uint8_t* out = to.quantized.data() + block * static_cast<size_t>(bytes);
  for (int64_t at = 0; at < bytes; ++at) {
    // of 4 bits: byte `at` holds inputs 2 at and 2 at + 1; a group of 8 inputs has its first 4 in low nibbles
    const int64_t input = at * 8 / layout.bits;
    if (layout.bits == 8) {
      out[at] = quads[input / kQuad * kTile * kQuad + input % kQuad];
      continue;
    }
    const uint8_t* pair = quads + input / 8 * kTile * kQuad + input % kQuad;
    const int shift = input % 8 < kQuad ? 0 : 4;
    out[at] = static_cast<uint8_t>((pair[0] >> shift & 15) | (pair[1] >> shift & 15) << 4);
  }
}

GraphWeights converted(const std::string& name, const TileLayout& layout, const uint8_t* tiles, int64_t outputs,
                       int64_t inputs) {
  const int64_t blocks = (inputs + layout.block - 1) / layout.block, bytes = layout.block * layout.bits / 8;
  const size_t length = name.size() - (ends_with(name, kSuffix) ? kSuffix.size() : 0);
  const std::string weight = name.substr(0, length);
  GraphWeights to{weight + ".quantized", weight + ".scales", {outputs, blocks, bytes}, {outputs, blocks}, {}, {}};
  to.quantized.resize(static_cast<size_t>(outputs * blocks * bytes));
  to.scales.resize(static_cast<size_t>(outputs * blocks));
  for (int64_t output = 0; output < outputs; ++output)
    for (int64_t b = 0; b < blocks; ++b)
      write_output(to, layout, tiles + (output / kTile * blocks + b) * layout.record_bytes(), output % kTile,
                   static_cast<size_t>(output * blocks + b));
  return to;
}

}  // namespace

double TileLayout::size(int64_t outputs, int64_t inputs) const {
  const auto tiles = static_cast<double>((outputs + kTile - 1) / kTile);
  return tiles * static_cast<double>((inputs + block - 1) / block) * static_cast<double>(record_bytes());
}

const TileLayout* tile_layout(const std::string& dtype) {
  static const std::map<std::string, TileLayout> kLayouts = {
      {"int4_tiles", {4, 128}}, {"int8_tiles", {8, 32}}, {"int8_tiles_128", {8, 128}}};
  const auto found = kLayouts.find(dtype);
  return found == kLayouts.end() ? nullptr : &found->second;
}

std::string data_path(const std::string& folder, const ComponentInfo& component) {
  if (component.data.file.empty())
    fail(JE_E_BUNDLE, folder, "/", component.file.file, ": no weights beside it; export the bundle again");
  return folder + "/" + component.data.file;
}

const uint8_t* inside(const std::string& path, const std::string& name, const uint8_t* data, size_t bytes,
                      uint64_t offset, double size) {
  if (static_cast<double>(offset) + size > static_cast<double>(bytes) || offset % 4 != 0)
    fail(JE_E_BUNDLE, path, ": ", name, " is not inside; export the bundle again");
  return data + offset;
}

std::vector<GraphWeights> graph_weights(const std::map<std::string, Stored>& tensors, const std::string& path) {
  std::vector<GraphWeights> found;
  Mapped file;
  for (const auto& [name, each] : tensors) {
    const TileLayout* layout = tile_layout(each.dtype);
    if (layout == nullptr || !each.is_in_graph) continue;
    if (each.shape.size() != 2) fail(JE_E_BUNDLE, path, ": ", name, " is no matrix; export the bundle again");
    if (file.data() == nullptr) file = Mapped(path);
    const int64_t outputs = each.shape[0], inputs = each.shape[1];
    const uint8_t* tiles = inside(path, name, file.data(), file.size(), each.offset, layout->size(outputs, inputs));
    found.push_back(converted(name, *layout, tiles, outputs, inputs));
  }
  return found;
}

}  // namespace je
