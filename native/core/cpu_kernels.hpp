// The backend cpu_kernels: components in 4 and 8 bits by the C library in native/cpu (docs/cpu-kernels.md), if the
// processor has the instructions. Mirrors runtime/backends/cpu_kernels.py, cpu_decoder.py, cpu_head.py, cpu_images.py.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "bundle.hpp"
#include "decoder_engine.hpp"
#include "onnxruntime.hpp"

struct je_pool;

namespace je {

// Return true if the CPU kernels can run this component on this processor.
bool runs_on_cpu_kernels(const std::string& component, const Manifest& manifest);

// Return the name of the instruction set that they use.
std::string kernels_in_use();

// Threads that the decoder and heads share. A PoolTurn lets one job use them.
class Pool {
 public:
  // num_threads: the caller's included. Throws Error JE_E_ARGUMENT if the system cannot start that many threads.
  explicit Pool(int num_threads);
  ~Pool();
  Pool(const Pool&) = delete;

  je_pool* get() const { return pool_; }
  std::mutex& mutex() { return mutex_; }

 private:
  je_pool* pool_;
  std::mutex mutex_;
};

// Lets the calling thread use a pool; waits for other jobs.
class PoolTurn {
 public:
  explicit PoolTurn(Pool& pool) : lock_(pool.mutex(), std::try_to_lock) {
    if (lock_.owns_lock()) return;
    ++num_waits();
    lock_.lock();
  }

  // How often the calling thread waited for another job.
  static uint64_t& num_waits() {
    thread_local uint64_t count = 0;
    return count;
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

// Open the decoder, a head, or a stage. Throw Error JE_E_BUNDLE if a weight is missing or lies outside of the file.
std::unique_ptr<DecoderEngine> cpu_decoder(const Bundle& bundle, std::shared_ptr<Pool> pool);
Head cpu_head(const Bundle& bundle, const std::string& component, std::shared_ptr<Pool> pool);
Stage cpu_stage(const Bundle& bundle, const std::string& component, std::shared_ptr<Pool> pool);

}  // namespace je
