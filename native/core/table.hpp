// Look-up tables: .npy files of float32 or float16 rows, compared with what they must be. Equal to runtime/tables.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "files.hpp"

namespace je {

// Rows are read as they are used, not mapped: a file that is cut short meanwhile is an error then, not the end of the
// process. Small tables are read whole, and only those may be stored by column.
class Table {
 public:
  // Throws Error JE_E_BUNDLE if the file is not exactly such an array, or (of one that is read whole) holds what is no
  // finite number.
  Table(const std::string& path, int64_t rows, int64_t width, bool is_half);

  // Any number of threads at once. Throws Error JE_E_BUNDLE for a row that there is not, that is no longer there, or
  // that holds what is no finite number.
  void copy_row(int64_t row, float* to) const;

 private:
  bool read_header();  // whether the numbers stand by column
  void read_numbers(size_t first, size_t count, float* to) const;

  std::string path_;
  RegularFile file_;
  int64_t rows_, width_;
  bool is_half_;
  uint64_t start_ = 0;
  std::vector<float> whole_;
};

// Whether none is infinite or NaN.
bool are_finite(const float* numbers, size_t count);

}  // namespace je
