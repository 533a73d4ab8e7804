// The engines and tables of a bundle, each opened when first needed and kept. Equal to runtime/engines.py.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "bundle.hpp"
#include "cpu_kernels.hpp"
#include "decoder_engine.hpp"
#include "onnxruntime.hpp"

namespace je {

// Which component takes the decoder's steps, and which takes many positions at once.
struct DecoderNames {
  std::string step, prefill;
};

// Any number of threads may use one.
class Engines {
 public:
  // options: num_threads and log of them. Throws Error JE_E_ARGUMENT if the system has not as many threads.
  Engines(Bundle bundle, Device device, const je_options& options);

  const Bundle& bundle() const { return bundle_; }
  const Sizes& sizes() const { return bundle_.manifest.sizes; }
  const Device& device() const { return device_; }
  bool uses_cpu_kernels() const { return is_on_cpu_kernels("decoder"); }

  // Open components ahead of their use; on a CPU side by side, as each takes one processor.
  void open(const std::vector<std::string>& names);

  // Each opens its component if that is closed. Throw Error.
  const Graph& graph(const std::string& name);
  const DecoderEngine& decoder(const std::string& name);
  const Head& head(const std::string& name);
  const Table& table(const std::string& name);

  // needs_steps: whether there will be steps; has_prefill: whether so many positions that it is worth opening the copy
  // for them, where the bundle has one.
  DecoderNames decoder_names(bool needs_steps, bool has_prefill);

  void log(int32_t level, const std::string& line) const;

 private:
  struct Slot {
    std::mutex mutex;
    std::unique_ptr<Graph> graph;
    std::unique_ptr<DecoderEngine> decoder;
    std::unique_ptr<Head> head;
    bool is_table_checked = false;
  };

  template <class Kind, class Make>
  const Kind& opened(const std::string& name, std::unique_ptr<Kind> Slot::* kind, const Make& make);
  bool is_on_cpu_kernels(const std::string& name) const;
  GraphOptions graph_options(const std::string& name) const;
  Head graph_head(const std::string& name);

  Bundle bundle_;
  Device device_;
  je_options options_;
  std::shared_ptr<Pool> pool_;
  std::map<std::string, Slot> slots_;  // of every component; never changed
};

}  // namespace je
