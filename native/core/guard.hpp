// Turns exceptions into statuses of the C API, and keeps the reason for je_error.
#pragma once

#include <exception>
#include <new>

#include "error.hpp"

namespace je {

// Keep a line for je_error of this thread. Return the status.
je_status note(je_status status, const char* line) noexcept;

// Call the function and return its status. An exception becomes a status, and its reason is kept for je_error.
template <class Function>
je_status guarded(const Function& function) noexcept {
  try {
    return function();
  } catch (const Cancelled&) {
    return JE_CANCELLED;
  } catch (const Error& error) {
    return note(error.status, error.what());
  } catch (const std::bad_alloc&) {
    return note(JE_E_MEMORY, "no memory left; draw fewer images at once");
  } catch (const std::exception& error) {
    return note(JE_E_RUNTIME, error.what());
  } catch (...) {
    return note(JE_E_RUNTIME, "unknown error");
  }
}

// Throw Error JE_E_ARGUMENT if the pointer is NULL. name: of the argument.
inline void need(const void* pointer, const char* name) {
  if (pointer == nullptr) fail(JE_E_ARGUMENT, name, " is NULL");
}

}  // namespace je
