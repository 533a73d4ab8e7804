// Conversion from and to UTF-8. Each maximal subpart that is malformed becomes one U+FFFD (Unicode 3.9, table 3-8), as
// with Python's errors="replace".
#include "tokenizer.hpp"

namespace je {
namespace {

// A first byte. following: number of bytes that follow it; 0: it cannot begin a character. least, most: range of the
// second byte.
struct Lead {
  int following;
  uint8_t least, most;
};

Lead lead_of(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};  // no surrogates
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};  // up to U+10FFFF
  return {0, 0, 0};
}

}  // namespace

std::u32string to_points(std::string_view text) {
  std::u32string points;
  points.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const uint8_t first = static_cast<uint8_t>(text[at++]);
    if (first < 0x80) {
      points.push_back(first);
      continue;
    }
    const Lead lead = lead_of(first);
    char32_t point = first & (0x3F >> lead.following);
    int read = 0;
    while (read < lead.following && at < text.size()) {
      const uint8_t byte = static_cast<uint8_t>(text[at]);
      const bool fits = read == 0 ? byte >= lead.least && byte <= lead.most : (byte & 0xC0) == 0x80;
      if (!fits) break;
      point = point << 6 | (byte & 0x3F);
      ++at, ++read;
    }
    points.push_back(lead.following && read == lead.following ? point : kReplacement);
  }
  return points;
}

std::string to_utf8(std::u32string_view points) {
  std::string text;
  text.reserve(points.size());
  for (const char32_t point : points) {
    if (point < 0x80) {
      text.push_back(static_cast<char>(point));
      continue;
    }
    const int following = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    text.push_back(static_cast<char>((0xFF00 >> (following + 1) & 0xFF) | point >> (6 * following)));
    for (int i = following - 1; i >= 0; --i) text.push_back(static_cast<char>(0x80 | (point >> (6 * i) & 0x3F)));
  }
  return text;
}

std::string well_formed(std::string_view text) { return to_utf8(to_points(text)); }

}  // namespace je
