// Weights in tiles, as bundles store those that the CPU kernels read (docs/bundle.md). Mirrors runtime/tiles.py.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace je {

// How weights lie in tiles. block: inputs that share a scale.
struct TileLayout {
  int32_t bits;
  int64_t block;

  // Return the bytes of one block of a tile: its scales and its weights.
  int64_t record_bytes() const { return kTile * (4 + block * bits / 8); }

  // Return the bytes of a matrix. A double cannot overflow.
  double size(int64_t outputs, int64_t inputs) const;

  static constexpr int64_t kTile = 32;  // outputs
};

// Return the layout of a dtype of the manifest; nullptr if it is none of tiles.
const TileLayout* tile_layout(const std::string& dtype);

// Return the path of a component's data file. Throws Error JE_E_BUNDLE if there is none.
std::string data_path(const std::string& folder, const ComponentInfo& component);

// Return the address of a stored array of `size` bytes in a file. Throws Error JE_E_BUNDLE if it lies outside.
const uint8_t* inside(const std::string& path, const std::string& name, const uint8_t* data, size_t bytes,
                      uint64_t offset, double size);

// Weights (O, K, S * bits / 8) and scales (O, K) of a matmul as its graph has them.
struct GraphWeights {
  std::string quantized_name, scales_name;
  std::vector<int64_t> quantized_shape, scales_shape;
  std::vector<uint8_t> quantized;
  std::vector<float> scales;
};

// Return the weights of a component's graph that are stored in tiles in a file. Throws Error JE_E_BUNDLE.
std::vector<GraphWeights> graph_weights(const std::map<std::string, Stored>& tensors, const std::string& path);

}  // namespace je
