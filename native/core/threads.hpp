// Work on several threads at once.
#pragma once

#include <cstddef>
#include <functional>

namespace je {

// Return the number of processors that this process may run on; the machine may have more.
int num_processors();

// Call `work` with 0 ... count - 1 on several threads at once and wait for all calls. Throws the first exception of
// them.
void in_parallel(size_t count, const std::function<void(size_t)>& work);

}  // namespace je
