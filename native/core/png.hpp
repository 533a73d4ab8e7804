// The chunks of a PNG file (PNG, third edition). In Python, Pillow writes them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace je {

constexpr size_t kSignatureBytes = 8;

// Return the number in four bytes, the highest byte first, as PNG writes numbers.
uint32_t word_at(const void* bytes);

// Return the body of the first chunk of a kind. data() is nullptr if there is none.
std::string_view chunk_of(std::string_view file, std::string_view kind);

// Return an uncompressed iTXt chunk: its length, kind, body and CRC.
std::vector<uint8_t> text_chunk(const std::string& key, const std::string& text);

// Return the CRC-32 that follows a chunk's body. kind_and_body: the bytes it is computed over.
uint32_t chunk_checksum(std::string_view kind_and_body);

}  // namespace je
