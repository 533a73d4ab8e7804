#include "table.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.hpp"
#include "limits.hpp"

namespace je {
namespace {

constexpr const char *kAgain = "; export the bundle again", *kCopy = "copy the bundle again";

// Convert fp16 to fp32.
float to_fp32(uint16_t fp16) {
  const uint32_t sign = static_cast<uint32_t>(fp16 & 0x8000) << 16;
  const uint32_t exponent = fp16 >> 10 & 31, fraction = fp16 & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = 0x7F800000 | fraction << 13;
  } else if (exponent > 0) {
    bits = (exponent + 112) << 23 | fraction << 13;
  } else {  // subnormal: fraction * 2^-24
    const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &subnormal, 4);
  }
  bits |= sign;
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}

}  // namespace

uint16_t to_fp16(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7FFFFFFF;
  uint32_t found = 0x7C00;  // infinity: of 2^16 and more
  if (bits < 0x38800000) {  // below 2^-14: a subnormal, whole times 2^-24
    found = static_cast<uint32_t>(std::nearbyint(std::fabs(number) * 0x1p24f));
  } else if (bits < 0x47800000) {
    found = (bits + 0xFFF + (bits >> 13 & 1) - 0x38000000) >> 13;
  }
  return static_cast<uint16_t>(sign | found);
}

bool are_finite(const float* numbers, size_t count) {
  uint32_t is_wrong = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, numbers + i, 4);
    is_wrong |= (bits & 0x7F800000) == 0x7F800000;
  }
  return is_wrong == 0;
}

Table::Table(const std::string& path, int64_t rows, int64_t width, bool is_fp16)
    : path_(path),
      file_(path, limits::kComponentBytes, JE_E_BUNDLE, kCopy),
      rows_(rows),
      width_(width),
      is_fp16_(is_fp16) {
  const bool is_by_column = read_header();
  const size_t numbers = static_cast<size_t>(rows * width), bytes = numbers * (is_fp16 ? 2 : 4);
  if (file_.size() != start_ + bytes) fail(JE_E_BUNDLE, path, ": not ", start_ + bytes, " bytes long", kAgain);
  if (bytes > static_cast<size_t>(limits::kWholeTable)) {
    if (is_by_column) fail(JE_E_BUNDLE, path, ": a large table stored by column", kAgain);
    return;
  }
  whole_.resize(numbers);
  read_numbers(0, numbers, whole_.data());
  if (!is_by_column) return;
  const std::vector<float> columns = whole_;
  const size_t num_rows = static_cast<size_t>(rows), num_columns = static_cast<size_t>(width);
  for (size_t row = 0; row < num_rows; ++row)
    for (size_t column = 0; column < num_columns; ++column)
      whole_[row * num_columns + column] = columns[column * num_rows + row];
}

// A header (NEP 1): \x93NUMPY, version 1.0, a length of two bytes, and a Python dictionary exactly as NumPy writes it.
bool Table::read_header() {
  uint8_t start[10];
  const bool is_there = file_.read_at(0, start, 10) == 10 && std::memcmp(start, "\x93NUMPY\1\0", 8) == 0;
  std::string header(is_there ? start[8] + 256u * start[9] : 0, ' ');
  header.resize(file_.read_at(10, header.data(), header.size()));
  for (const bool is_by_column : {false, true}) {
    const std::string said =
        join("{'descr': '<f", is_fp16_ ? 2 : 4, "', 'fortran_order': ", is_by_column ? "True" : "False", ", 'shape': (",
             rows_, ", ", width_, "), }");
    if (header.compare(0, said.size(), said) != 0 || header.back() != '\n') continue;
    if (header.find_first_not_of(' ', said.size()) + 1 != header.size()) continue;
    start_ = 10 + header.size();
    return is_by_column;
  }
  fail(JE_E_BUNDLE, path_, ": not an array float", is_fp16_ ? 16 : 32, " (", rows_, ", ", width_, ")", kAgain);
}

void Table::read_numbers(size_t first, size_t count, float* to) const {
  const size_t item = is_fp16_ ? 2 : 4;
  std::vector<uint8_t> bytes(count * item);
  if (file_.read_at(start_ + first * item, bytes.data(), bytes.size()) != bytes.size())
    fail(JE_E_BUNDLE, path_, ": has become shorter; ", kCopy);
  for (size_t i = 0; i < count; ++i) {
    uint16_t fp16;
    if (is_fp16_) {
      std::memcpy(&fp16, bytes.data() + i * 2, 2);
      to[i] = to_fp32(fp16);
    } else {
      std::memcpy(to + i, bytes.data() + i * 4, 4);
    }
  }
  if (!are_finite(to, count)) fail(JE_E_BUNDLE, path_, ": holds what is no finite number", kAgain);
}

void Table::copy_row(int64_t row, float* to) const {
  if (row < 0 || row >= rows_) fail(JE_E_BUNDLE, path_, ": has no row ", row, kAgain);
  const size_t width = static_cast<size_t>(width_), first = static_cast<size_t>(row) * width;
  if (whole_.empty())
    read_numbers(first, width, to);
  else
    std::copy_n(whole_.begin() + static_cast<std::ptrdiff_t>(first), width, to);
}

}  // namespace je
