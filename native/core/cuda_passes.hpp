// How a call of the decoder is divided into passes of its GPU kernels. Mirrors runtime/backends/cuda_passes.py.
#pragma once

#include <cstdint>
#include <vector>

namespace je {

constexpr int64_t kMostRows = 16;   // of a pass: a tile of products
constexpr int64_t kMostMany = 640;  // of a pass with many rows

// Rows of a call that a pass computes: `span` positions of each cache, from position `start` and cache `first` on.
struct Pass {
  int64_t rows, span, time, first, start;
  bool is_many;                                                  // by the kernels for many rows
  const char* ending() const { return is_many ? "_many" : ""; }  // of the names of its kernels
  bool is_step() const { return time == 1 && !is_many; }
};

// Divide a call into passes. Prompts, whatever their length, take the kernels for many rows: a row must not depend on
// the others of its batch. Drafts do not, whatever their number: it must not change what is drawn.
std::vector<Pass> passes_of(int64_t rows, int64_t time, bool is_prompt);

}  // namespace je
