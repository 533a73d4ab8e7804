#include "overlap.hpp"

namespace je {

std::vector<Step> steps_of(size_t grid, size_t window) {
  std::vector<Step> steps;
  std::vector<size_t> drawn(grid), read(grid);  // codes of each row, and how many of them the decoder has read
  drawn[0] = 1;
  for (size_t total = 1; total < grid * grid;) {
    Step step{};
    for (size_t row = 0; row < grid; ++row) {
      if (read[row] == drawn[row]) continue;
      const size_t last = row * grid + drawn[row] - 1;
      const bool begins_next = drawn[row] == grid && row + 1 < grid && drawn[row + 1] == 0;
      const bool is_followed = drawn[row] < grid || begins_next;
      step.places.push_back({last, last, is_followed ? static_cast<int64_t>(last + 1) : -1});
    }
    step.kept = step.places.size();
    for (size_t row = 0; row + 1 < grid; ++row) {
      if (drawn[row] < window || drawn[row] == grid || drawn[row + 1] > 0) continue;
      const size_t next = (row + 1) * grid;
      step.places.push_back({row * grid + drawn[row] - 1, next - 1, static_cast<int64_t>(next)});
    }
    for (size_t i = 0; i < step.kept; ++i) ++read[step.places[i].read / grid];
    for (const Place& each : step.places) {
      if (each.follows < 0) continue;
      ++drawn[static_cast<size_t>(each.follows) / grid];
      ++total;
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace je
