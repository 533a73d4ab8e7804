// Our own decoder and heads (native/cpu, docs/cpu-kernels.md), where the processor has the instructions.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "bundle.hpp"
#include "decoder_engine.hpp"

struct je_pool;

namespace je {

// Whether this component of a bundle can be opened here.
bool runs_on_cpu_kernels(const std::string& component, const Manifest& manifest);

// Threads that decoders and heads share, one of them at a time.
class Pool {
 public:
  explicit Pool(int num_threads);  // throws Error JE_E_ARGUMENT if the system has not as many
  ~Pool();
  Pool(const Pool&) = delete;

  je_pool* get() const { return pool_; }
  std::mutex& mutex() { return mutex_; }

 private:
  je_pool* pool_;
  std::mutex mutex_;
};

// Throw Error JE_E_BUNDLE if a weight is missing or lies outside the file.
std::unique_ptr<DecoderEngine> cpu_decoder(const Bundle& bundle, std::shared_ptr<Pool> pool);
Head cpu_head(const Bundle& bundle, const std::string& component, std::shared_ptr<Pool> pool);

}  // namespace je
