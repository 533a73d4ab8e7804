#include "guard.hpp"

#include "tokenizer.hpp"

namespace je {
namespace {

thread_local std::string last_text;
thread_local const char* last_error = "";

}  // namespace

// Damaged files may put anything into the line; it is made one line of UTF-8.
je_status note(je_status status, const char* line) noexcept {
  try {
    last_text = well_formed(line);
    for (char& each : last_text)
      if (static_cast<unsigned char>(each) < ' ') each = ' ';
    last_error = last_text.c_str();
  } catch (...) {
    last_error = "no memory left, not even to say why; free some";
  }
  return status;
}

}  // namespace je

const char* je_error(void) { return je::last_error; }
