#include "guard.hpp"

#include "tokenizer.hpp"

namespace je {
namespace {

thread_local std::string last_error;

}  // namespace

// Whatever damaged files put into it, it is one line of UTF-8.
je_status note(je_status status, const char* line) noexcept {
  try {
    last_error = well_formed(line);
    for (char& each : last_error)
      if (each >= 0 && each < ' ') each = ' ';
  } catch (...) {  // no memory even for that
    last_error.clear();
  }
  return status;
}

}  // namespace je

const char* je_error(void) { return je::last_error.c_str(); }
