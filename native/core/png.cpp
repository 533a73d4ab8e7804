#include "png.hpp"

namespace je {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kSignature = 8, kAround = 12;  // bytes; of a chunk its length, kind and CRC
constexpr size_t kPalette = 256 * 3;

void put_word(Bytes& to, uint32_t word) {
  for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<uint8_t>(word >> shift));
}

uint32_t crc32(const uint8_t* bytes, size_t size) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

Bytes chunk(std::string_view kind, const Bytes& body) {
  Bytes found;
  put_word(found, static_cast<uint32_t>(body.size()));
  found.insert(found.end(), kind.begin(), kind.end());
  found.insert(found.end(), body.begin(), body.end());
  put_word(found, crc32(found.data() + 4, found.size() - 4));
  return found;
}

}  // namespace

uint32_t word_at(const void* bytes) {
  const auto* from = static_cast<const uint8_t*>(bytes);
  return uint32_t{from[0]} << 24 | uint32_t{from[1]} << 16 | uint32_t{from[2]} << 8 | from[3];
}

std::string_view chunk_of(std::string_view file, std::string_view kind) {
  for (size_t at = kSignature; at + kAround <= file.size();) {
    const size_t size = word_at(file.data() + at);
    if (size > file.size() - at - kAround) break;
    if (file.substr(at + 4, 4) == kind) return file.substr(at + 8, size);
    at += kAround + size;
  }
  return {};
}

Bytes text_chunk(const std::string& key, const std::string& text) {
  Bytes body(key.begin(), key.end());
  body.insert(body.end(), 5, 0);  // its end; not compressed, by no method; no language, no translated key
  body.insert(body.end(), text.begin(), text.end());
  return chunk("iTXt", body);
}

Bytes with_whole_palette(const Bytes& file) {
  const std::string_view all(reinterpret_cast<const char*>(file.data()), file.size());
  const std::string_view colours = chunk_of(all, "PLTE");
  if (colours.empty() || colours.size() >= kPalette || colours.size() % 3 != 0) return {};
  const auto begin = file.begin() + (colours.data() - all.data());
  const auto end = begin + static_cast<std::ptrdiff_t>(colours.size());
  Bytes body(begin, end);
  body.resize(kPalette, 0);
  Bytes found(file.begin(), begin - 8);
  const Bytes whole = chunk("PLTE", body);
  found.insert(found.end(), whole.begin(), whole.end());
  found.insert(found.end(), end + 4, file.end());
  return found;
}

}  // namespace je
