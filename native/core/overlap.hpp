// Approximate drawing in which rows of an image overlap (docs/decoding.md). Mirrors steps_of of runtime/overlap.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace je {

// A position of a pass. Codes are counted in raster order. read: the code that the decoder reads. at: where it stands,
// the place before the code that follows. follows: that code; -1: it is drawn already.
struct Place {
  size_t read, at;
  int64_t follows;
};

// A pass of overlapping rows. kept: how many of the positions are kept. A row that begins early reads the newest code
// of the row above in place of its last one; that position is not kept.
struct Step {
  std::vector<Place> places;
  size_t kept;
};

// Return the passes of an image after its first code. grid: codes in a row, and rows. window: codes of a row that are
// there when the next one begins, 1 to grid.
std::vector<Step> steps_of(size_t grid, size_t window);

}  // namespace je
