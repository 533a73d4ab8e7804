// Files at paths that a program names, by the rules of docs/cli.md, "Written files".
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace je {

// Throws Error JE_E_ARGUMENT for a name with another image's suffix than PNG's.
void check_is_png(const std::string& path);

// A regular file appears whole or not at all, a link's target likewise; a pipe or character device is written through.
// Throws Error JE_E_OUTPUT.
void write_output(const std::string& path, const uint8_t* bytes, size_t size);

}  // namespace je
