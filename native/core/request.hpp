// Checks a request of the C API and makes a task of it. Mirrors the rules of runtime/requests.py and
// runtime/session.py.
#pragma once

#include <memory>

#include "task.hpp"

namespace je {

// The default of je_request.max_tokens.
constexpr int32_t kUsualTokens = 128;

// Return the task of a request. Throws Error JE_E_ARGUMENT for values out of range, settings of the other task or of
// another family, and an empty or too long prompt.
std::unique_ptr<Task> start_task(std::shared_ptr<Engines> engines, const je_request& request);

}  // namespace je
