#include "png.hpp"

#include <array>

namespace je {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kAround = 12;  // bytes of a chunk's length, kind and CRC

void put_word(Bytes& to, uint32_t word) {
  for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<uint8_t>(word >> shift));
}

// The CRC-32 of each single byte.
std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    table[i] = i;
    for (int bit = 0; bit < 8; ++bit) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
  }
  return table;
}

Bytes chunk(std::string_view kind, const Bytes& body) {
  Bytes found;
  put_word(found, static_cast<uint32_t>(body.size()));
  found.insert(found.end(), kind.begin(), kind.end());
  found.insert(found.end(), body.begin(), body.end());
  put_word(found, chunk_checksum({reinterpret_cast<const char*>(found.data()) + 4, found.size() - 4}));
  return found;
}

}  // namespace

uint32_t word_at(const void* bytes) {
  const auto* from = static_cast<const uint8_t*>(bytes);
  return uint32_t{from[0]} << 24 | uint32_t{from[1]} << 16 | uint32_t{from[2]} << 8 | from[3];
}

uint32_t chunk_checksum(std::string_view kind_and_body) {
  static const std::array<uint32_t, 256> kTable = make_table();
  uint32_t crc = ~0u;
  for (const char each : kind_and_body) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(each)) & 255];
  return ~crc;
}

std::string_view chunk_of(std::string_view file, std::string_view kind) {
  for (size_t at = kSignatureBytes; at + kAround <= file.size();) {
    const size_t size = word_at(file.data() + at);
    if (size > file.size() - at - kAround) break;
    if (file.substr(at + 4, 4) == kind) return file.substr(at + 8, size);
    at += kAround + size;
  }
  return {};
}

Bytes text_chunk(const std::string& key, const std::string& text) {
  Bytes body(key.begin(), key.end());
  body.insert(body.end(), 5,
              0);  // end of the key; not compressed; compression method 0; no language; no translated key
  body.insert(body.end(), text.begin(), text.end());
  return chunk("iTXt", body);
}

}  // namespace je
