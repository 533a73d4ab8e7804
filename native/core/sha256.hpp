// SHA-256 (FIPS 180-4), with the processor's own instructions where it has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace je {

// 64 hexadecimal digits.
std::string sha256(const uint8_t* bytes, size_t size);

// Of a file, read in pieces. Throws Error JE_E_BUNDLE where it cannot be read, JE_E_MEMORY.
std::string file_sha256(const std::string& path);

}  // namespace je
