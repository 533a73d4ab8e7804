// Between the C functions and what throws: statuses out, the reason kept for je_error.
#pragma once

#include <exception>
#include <new>

#include "error.hpp"

namespace je {

// Keep a line for je_error; returns the status.
je_status note(je_status status, const char* line) noexcept;

// Call it; what it throws as a status.
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

inline void need(const void* pointer, const char* name) {
  if (pointer == nullptr) fail(JE_E_ARGUMENT, name, " is NULL");
}

}  // namespace je
