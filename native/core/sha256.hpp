// SHA-256 (FIPS 180-4), by the processor's SHA instructions if it has them. In Python, hashlib does this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace je {

// Return the hash of `size` bytes as 64 hexadecimal digits.
std::string sha256(const uint8_t* bytes, size_t size);

// Return the hash of a file, which is read in pieces. Throws Error JE_E_BUNDLE if it cannot be read, JE_E_MEMORY.
std::string file_sha256(const std::string& path);

}  // namespace je
