// Decompression of deflate streams (RFC 1951). stb's own reader returns nothing of a stream whose end is missing. In
// Python, zlib does this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace je {

// Decompress a raw stream and append the result to `to`, as zlib does. If the end of the stream is missing, `to` gets
// what the bytes hold. Return false if it is not such a stream, or if the result would have `most` bytes or more.
bool inflate(std::string_view stream, size_t most, std::vector<uint8_t>& to);

}  // namespace je
