// Files by their first bytes, so that a refusal can name what was given. Equal to runtime/formats.py.
#pragma once

#include <string>
#include <string_view>

namespace je {

// The name of a file's format; "" if it is unknown.
std::string name_format(std::string_view file);

}  // namespace je
