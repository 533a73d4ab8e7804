// Files at paths that a program names, by the rules of docs/cli.md, "Written files". Mirrors runtime/output.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace je {

// Throw Error JE_E_ARGUMENT if the path has the suffix of an image format other than PNG.
void check_is_png(const std::string& path);

// Write a file. A regular file, or the target of a link, appears whole or not at all. A named pipe or character device
// is written through. Throws Error JE_E_OUTPUT.
void write_output(const std::string& path, const uint8_t* bytes, size_t size);

}  // namespace je
