#include "cuda_passes.hpp"

#include <algorithm>

namespace je {
namespace {

constexpr int64_t kMostDrafts = 64;  // positions of a call whose hidden states must not depend on their number

}  // namespace

std::vector<Pass> passes_of(int64_t rows, int64_t time, bool is_prompt) {
  std::vector<Pass> found;
  const bool is_many = is_prompt || time > kMostDrafts;
  const int64_t most = is_many ? kMostMany : kMostRows, at_once = std::max<int64_t>(1, most / time);
  for (int64_t first = 0; first < rows; first += at_once)
    for (int64_t start = 0; start < time; start += most) {
      const int64_t span = std::min(most, time - start);
      found.push_back({std::min(at_once, rows - first) * span, span, time, first, start, is_many});
    }
  return found;
}

}  // namespace je
