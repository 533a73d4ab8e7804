// Look-up tables: .npy files of fp32 or fp16 rows, whose header is checked. Mirrors runtime/tables.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "files.hpp"

namespace je {

// A look-up table. Rows are read when they are used, not mapped: if the file is cut short meanwhile, that is an error
// and not the end of the process. Small tables (limits::kWholeTable) are read when they are opened; only those may be
// stored by column.
class Table {
 public:
  // Open a table of shape (rows, width). is_fp16: fp16 instead of fp32. Throws Error JE_E_BUNDLE if the file is not
  // exactly such an array, or if a small table holds a number that is not finite.
  Table(const std::string& path, int64_t rows, int64_t width, bool is_fp16);

  // Copy a row (width) to `to`, as fp32. Any number of threads at once. Throws Error JE_E_BUNDLE if there is no such
  // row, if it is no longer in the file, or if it holds a number that is not finite.
  void copy_row(int64_t row, float* to) const;

 private:
  bool read_header();  // return true if the numbers are stored by column
  void read_numbers(size_t first, size_t count, float* to) const;

  std::string path_;
  RegularFile file_;
  int64_t rows_, width_;
  bool is_fp16_;
  uint64_t start_ = 0;
  std::vector<float> whole_;
};

// Convert fp32 to fp16: to the nearest, of two to the even one.
uint16_t to_fp16(float number);

// Return true if no number is infinite or NaN.
bool are_finite(const float* numbers, size_t count);

}  // namespace je
