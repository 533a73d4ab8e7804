// File formats by their first bytes, so that an error can name what was given. Mirrors runtime/formats.py.
#pragma once

#include <string>
#include <string_view>

namespace je {

// Return the name of a file's format; "" if it is unknown. file: its content, or at least its beginning.
std::string name_format(std::string_view file);

}  // namespace je
