// Task on several threads at once.
#pragma once

#include <cstddef>
#include <functional>

namespace je {

// Those this process may run on, which can be fewer than there are.
int num_processors();

// Call `work` for 0 ... count - 1, several at once, and wait for all. Throws the first that was thrown.
void in_parallel(size_t count, const std::function<void(size_t)>& work);

}  // namespace je
