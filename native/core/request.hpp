// A request of the C API, checked, as work. The rules are those of runtime/requests.py and runtime/session.py.
#pragma once

#include <memory>

#include "task.hpp"

namespace je {

constexpr int32_t kUsualTokens = 128;  // of an answer, where a request does not say

// Throws Error JE_E_ARGUMENT for values out of range, settings of another family, and an empty or too long prompt.
std::unique_ptr<Task> start_task(std::shared_ptr<Engines> engines, const je_request& request);

}  // namespace je
