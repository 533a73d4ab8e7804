// The chunks of a PNG file (PNG, third edition).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace je {

// A number as PNG writes it: four bytes, the highest first.
uint32_t word_at(const void* bytes);

// The body of the first chunk of a kind; nullptr inside: there is none.
std::string_view chunk_of(std::string_view file, std::string_view kind);

// A chunk iTXt, uncompressed: its length, kind, body and CRC.
std::vector<uint8_t> text_chunk(const std::string& key, const std::string& text);

// What stands behind a chunk's body (CRC-32).
uint32_t chunk_checksum(std::string_view kind_and_body);

}  // namespace je
