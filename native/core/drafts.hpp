// The codes of an image while it is drawn, and drafts of an answer. Mirrors Drafts and looked_up of runtime/decode.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "prompt.hpp"

namespace je {

// The codes of an image: those that are drawn, and behind them drafts of what may follow.
struct Drafts {
  std::vector<int64_t> codes;  // with room for a pass behind the last one
  size_t drawn = 0;

  // Accept the codes that a pass chose from drawn codes alone; keep the others as drafts. Its first code is one of
  // them. Each further one is if the draft before it was right. Return how many codes were added, up to num_codes.
  int64_t take(const std::vector<int64_t>& chosen, size_t num_codes) {
    size_t accepted = 1;
    while (accepted < chosen.size() && codes[drawn + accepted - 1] == chosen[accepted - 1]) ++accepted;
    const auto behind = std::copy(chosen.begin(), chosen.end(), codes.begin() + static_cast<std::ptrdiff_t>(drawn));
    std::fill(behind, codes.end(), chosen.back());
    accepted = std::min(accepted, num_codes - drawn);
    drawn += accepted;
    return static_cast<int64_t>(accepted);
  }
};

// Return up to `count` drafts of the tokens that follow: what followed the last tokens when they came before.
Ids looked_up(const Ids& ids, size_t count);

}  // namespace je
