#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace je {

int num_processors() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void in_parallel(size_t count, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next{0};
  std::exception_ptr thrown;
  std::mutex mutex;
  const auto serve = [&] {
    for (size_t task; (task = next.fetch_add(1)) < count;) {
      try {
        work(task);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!thrown) thrown = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  const size_t most = std::min(count, static_cast<size_t>(num_processors()));
  try {
    for (size_t i = 1; i < most; ++i) others.emplace_back(serve);
  } catch (...) {  // no thread or no memory is left: the threads that were started do all the work
  }
  serve();
  for (std::thread& each : others) each.join();
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace je
