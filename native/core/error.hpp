// What crosses the API as a status and a line: where, what, what to do.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "janus_edge.h"

namespace je {

struct Error : std::runtime_error {
  Error(je_status of, const std::string& line) : std::runtime_error(line), status(of) {}
  je_status status;
};

// A job ends where it stands.
struct Cancelled {};

// What to do where there is no memory for what a bundle holds.
constexpr const char* kFreeMemory = "free some memory, or use a bundle of fewer bits";

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream line;
  line.imbue(std::locale::classic());  // the program's may write 1.000 for 1000
  (line << ... << parts);
  return line.str();
}

template <class... Parts>
[[noreturn]] void fail(je_status status, const Parts&... parts) {
  throw Error(status, join(parts...));
}

}  // namespace je
