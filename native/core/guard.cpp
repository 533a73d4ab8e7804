#include "guard.hpp"

#include "tokenizer.hpp"

namespace je {
namespace {

thread_local std::string last_text;
thread_local const char* last_error = "";

constexpr size_t kLongest = 4000;  // characters, as runtime/errors.py

// Return true for characters that end a line or steer a terminal: controls, and marks of the writing direction.
bool is_hidden(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xAD || c == 0x61C || (c >= 0x200B && c <= 0x200F) ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF;
}

// Return a line with such characters replaced by spaces, and cut if it is long.
std::string shown(const char* line) {
  std::u32string points = to_points(line);
  for (char32_t& each : points)
    if (is_hidden(each)) each = U' ';
  if (points.size() <= kLongest) return to_utf8(points);
  points.resize(kLongest);
  return to_utf8(points) + "\xE2\x80\xA6";
}

}  // namespace

// Damaged files may put anything into the line; it is made one line of UTF-8 that a terminal can show.
je_status note(je_status status, const char* line) noexcept {
  try {
    last_text = shown(line);
    last_error = last_text.c_str();
  } catch (...) {
    last_error = "no memory left, not even to say why; free some";
  }
  return status;
}

}  // namespace je

const char* je_error(void) { return je::last_error; }
