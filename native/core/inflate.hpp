// Deflate (RFC 1951): stb's own reader gives nothing of a stream whose end is missing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace je {

// What comes out of a raw stream, as zlib has it: all of it, or as much as the bytes hold where the end is missing.
// False: it is no such stream, or at least `most` bytes would come out.
bool inflate(std::string_view stream, size_t most, std::vector<uint8_t>& to);

}  // namespace je
