// Errors, which the C API reports as a status and a line: where, what, what to do.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "janus_edge.h"

namespace je {

// An error. what() is one line.
struct Error : std::runtime_error {
  Error(je_status of, const std::string& line) : std::runtime_error(line), status(of) {}
  je_status status;
};

// Thrown when a job was cancelled.
struct Cancelled {};

// Advice if there is no memory for what a bundle holds.
constexpr const char* kFreeMemory = "free some memory, or use a bundle of fewer bits";

// Return the parts joined to a string. Numbers are written as in the C locale.
template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream line;
  line.imbue(std::locale::classic());  // the program's locale may write 1.000 for 1000
  (line << ... << parts);
  return line.str();
}

// Throw Error with the parts joined to its line.
template <class... Parts>
[[noreturn]] void fail(je_status status, const Parts&... parts) {
  throw Error(status, join(parts...));
}

}  // namespace je
