// Converts weights in tiles as native/core does at open. usage: tiles FILE DTYPE OUTPUTS INPUTS OFFSET
//
// Writes the weights and then the scales of y.weight.tiles to standard output.
#include "tiles.hpp"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "error.hpp"

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  je::Stored stored{argv[2], {std::atoll(argv[3]), std::atoll(argv[4])}, std::strtoull(argv[5], nullptr, 10)};
  try {
    for (const je::GraphWeights& each : je::graph_weights({{"y.weight.tiles", stored}}, argv[1])) {
      if (each.quantized_name != "y.weight.quantized" || each.scales_name != "y.weight.scales") return 3;
      std::fwrite(each.quantized.data(), 1, each.quantized.size(), stdout);
      std::fwrite(each.scales.data(), sizeof(float), each.scales.size(), stdout);
    }
  } catch (const je::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
