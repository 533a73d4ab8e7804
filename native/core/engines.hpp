// The engines and tables of a bundle. Each opens when it is first needed and stays open. Mirrors runtime/engines.py.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "bundle.hpp"
#include "cpu_kernels.hpp"
#include "cuda_backend.hpp"
#include "decoder_engine.hpp"
#include "kept.hpp"
#include "onnxruntime.hpp"
#include "threads.hpp"

namespace je {

// The components that run decode steps and prefill.
struct DecoderNames {
  std::string step, prefill;
};

// The engines of a session. Any number of threads may use them.
class Engines {
 public:
  // options: num_threads and log are used. Throws Error JE_E_ARGUMENT if the system cannot start that many threads.
  Engines(Bundle bundle, Device device, const je_options& options);

  const Bundle& bundle() const { return bundle_; }
  const Sizes& sizes() const { return bundle_.manifest.sizes; }
  const Device& device() const { return device_; }
  bool uses_cpu_kernels() const { return is_on_cpu_kernels("decoder"); }
  bool uses_cuda_kernels() const { return is_on_cuda_kernels("decoder"); }
  // Return the threads of the CPU kernels.
  int num_threads() const { return options_.num_threads > 0 ? options_.num_threads : num_processors(); }

  // Open components before they are used: on a CPU in parallel, as opening one keeps one processor busy. Throws Error.
  void open(const std::vector<std::string>& names);

  // Return a component's engine or table, and open it if it is not open. Throw Error.
  const Graph& graph(const std::string& name);
  const DecoderEngine& decoder(const std::string& name);
  const Head& head(const std::string& name);
  const Stage& stage(const std::string& name);
  const Table& table(const std::string& name);

  // Return what draws codes on the GPU; only where uses_cuda_kernels().
  const CudaLoop& cuda_loop();

  // Return what is kept for later requests.
  Kept& kept() { return kept_; }

  // Choose the decoder's components. needs_steps: decode steps will follow. has_prefill: there are so many positions at
  // once that it is worth opening the copy for prefill, if the bundle has one.
  DecoderNames decoder_names(bool needs_steps, bool has_prefill);

  // Pass a line on to the caller's log, if there is one.
  void log(int32_t level, const std::string& line) const;

 private:
  struct Slot {
    std::mutex mutex;
    std::unique_ptr<Graph> graph;
    std::unique_ptr<DecoderEngine> decoder;
    std::unique_ptr<Head> head;
    std::unique_ptr<Stage> stage;
    bool is_table_checked = false;
  };

  template <class Kind, class Make>
  const Kind& opened(const std::string& name, std::unique_ptr<Kind> Slot::* kind, const Make& make);
  bool is_on_cpu_kernels(const std::string& name) const;
  bool is_on_cuda_kernels(const std::string& name) const;
  const char* ran_by(const std::string& name) const;
  Device device_of(const std::string& name) const;
  std::shared_ptr<const CudaKernels> cuda();
  std::shared_ptr<const CudaHead> on_gpu(const std::string& head);
  GraphOptions graph_options(const std::string& name) const;
  Head graph_head(const std::string& name);
  Stage graph_stage(const std::string& name);

  Bundle bundle_;
  Device device_;
  je_options options_;
  std::shared_ptr<Pool> pool_;
  std::mutex cuda_mutex_;
  std::shared_ptr<const CudaKernels> cuda_;  // made when first needed, as the following
  std::map<std::string, std::shared_ptr<const CudaHead>> cuda_heads_;
  Kept kept_;
  std::map<std::string, Slot> slots_;    // one per component; the map is never changed
  std::unique_ptr<CudaLoop> cuda_loop_;  // refers to the decoder
};

}  // namespace je
