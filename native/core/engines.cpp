#include "engines.hpp"

#include <chrono>
#include <cstdio>
#include <limits>

#include "error.hpp"
#include "graph_decoder.hpp"

namespace je {
namespace {

constexpr int kMostContext = 1 << 20;
constexpr int kMostThreads = 1024;  // threads of an engine; ONNX Runtime would try to start more, and be killed

// Return the bytes that can be used without swapping, by Linux's estimate; infinity if the system gives none.
double free_memory() {
  double found = std::numeric_limits<double>::infinity();
  if (std::FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[256];
    long long kilobytes = 0;
    while (std::fgets(line, sizeof line, file) != nullptr)
      if (std::sscanf(line, "MemAvailable: %lld kB", &kilobytes) == 1) found = static_cast<double>(kilobytes) * 1024;
    std::fclose(file);
  }
  return found;
}

size_t context_bytes(const je_options& options) {
  if (options.context_mb < 0 || options.context_mb > kMostContext)
    fail(JE_E_ARGUMENT, "context_mb is ", options.context_mb, "; give a value from 0 to ", kMostContext);
  return static_cast<size_t>(options.context_mb) * 1000000;
}

}  // namespace

Engines::Engines(Bundle bundle, Device device, const je_options& options)
    : bundle_(std::move(bundle)), device_(std::move(device)), options_(options), kept_(context_bytes(options)) {
  if (options.num_threads < 0 || options.num_threads > kMostThreads)
    fail(JE_E_ARGUMENT, "num_threads is ", options.num_threads, "; give 0 to ", kMostThreads);
  bool is_any_on_cpu_kernels = false;
  for (const auto& [name, part] : bundle_.manifest.components) {
    slots_[name];
    is_any_on_cpu_kernels = is_any_on_cpu_kernels || is_on_cpu_kernels(name);
  }
  if (is_any_on_cpu_kernels) pool_ = std::make_shared<Pool>(num_threads());
}

bool Engines::is_on_cuda_kernels(const std::string& name) const {
  return device_.kind == "cuda" && has_cuda_kernels(name, bundle_.manifest);
}

// Return where a component runs: of a bundle with our GPU kernels, what they do not compute runs on the CPU.
Device Engines::device_of(const std::string& name) const {
  return uses_cuda_kernels() && !is_on_cuda_kernels(name) ? Device() : device_;
}

bool Engines::is_on_cpu_kernels(const std::string& name) const {
  return device_of(name).is_cpu() && runs_on_cpu_kernels(name, bundle_.manifest);
}

const char* Engines::ran_by(const std::string& name) const {
  if (is_on_cuda_kernels(name)) return ", by our GPU kernels";
  return is_on_cpu_kernels(name) ? ", by our CPU kernels" : "";
}

std::shared_ptr<const CudaKernels> Engines::cuda() {
  const std::lock_guard<std::mutex> lock(cuda_mutex_);
  if (!cuda_) cuda_ = open_cuda_kernels(bundle_, device_.ordinal);
  return cuda_;
}

std::shared_ptr<const CudaHead> Engines::on_gpu(const std::string& head) {
  const std::shared_ptr<const CudaKernels> kernels = cuda();
  const std::lock_guard<std::mutex> lock(cuda_mutex_);
  std::shared_ptr<const CudaHead>& found = cuda_heads_[head];
  if (!found) found = cuda_head(bundle_, head, kernels);
  return found;
}

const CudaLoop& Engines::cuda_loop() {
  const DecoderEngine& step = decoder("decoder");
  const std::shared_ptr<const CudaHead> head = on_gpu("image_head");
  const Table& codes = table("code_embed");
  const std::shared_ptr<const CudaKernels> kernels = cuda();
  const std::lock_guard<std::mutex> lock(cuda_mutex_);
  if (!cuda_loop_) cuda_loop_ = je::cuda_loop(bundle_, kernels, step, head, codes);
  return *cuda_loop_;
}

void Engines::log(int32_t level, const std::string& line) const {
  if (options_.log != nullptr) options_.log(options_.log_context, level, line.c_str());
}

template <class Kind, class Make>
const Kind& Engines::opened(const std::string& name, std::unique_ptr<Kind> Slot::* kind, const Make& make) {
  const auto found = slots_.find(name);
  if (found == slots_.end()) bundle_.component(name);  // throws: there is no such component
  Slot& slot = found->second;
  const std::lock_guard<std::mutex> lock(slot.mutex);
  if (!(slot.*kind)) {
    const auto began = std::chrono::steady_clock::now();
    bundle_.check_unchanged(name);
    slot.*kind = make();
    bundle_.check_unchanged(name);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
    log(JE_LOG_INFO, join(name, " opened in ", took.count(), " ms", ran_by(name)));
  }
  return *(slot.*kind);
}

GraphOptions Engines::graph_options(const std::string& name) const {
  const bool upcasts_on_use = bundle_.component(name).upcasts_on_use;
  return {options_.num_threads, device_of(name), upcasts_on_use, options_.log ? &options_ : nullptr};
}

const Graph& Engines::graph(const std::string& name) {
  return opened(name, &Slot::graph, [&] {
    const ComponentInfo& part = bundle_.component(name);
    return std::make_unique<Graph>(bundle_.path(part), part, graph_options(name));
  });
}

const DecoderEngine& Engines::decoder(const std::string& name) {
  return opened(name, &Slot::decoder, [&] {
    if (is_on_cuda_kernels(name)) return cuda_decoder(bundle_, cuda());
    return is_on_cpu_kernels(name) ? cpu_decoder(bundle_, pool_) : graph_decoder(bundle_, name, graph_options(name));
  });
}

const Head& Engines::head(const std::string& name) {
  return opened(name, &Slot::head, [&] {
    if (is_on_cuda_kernels(name)) return std::make_unique<Head>(on_host(on_gpu(name)));
    return std::make_unique<Head>(is_on_cpu_kernels(name) ? cpu_head(bundle_, name, pool_) : graph_head(name));
  });
}

const Stage& Engines::stage(const std::string& name) {
  return opened(name, &Slot::stage, [&] {
    return std::make_unique<Stage>(is_on_cpu_kernels(name) ? cpu_stage(bundle_, name, pool_) : graph_stage(name));
  });
}

Stage Engines::graph_stage(const std::string& name) {
  const ComponentInfo& part = bundle_.component(name);
  auto graph = std::make_shared<Graph>(bundle_.path(part), part, graph_options(name));
  return
      [graph](const Tensor& given, const Tensor& made, const Cancel& cancel) { graph->run({given}, {made}, cancel); };
}

Head Engines::graph_head(const std::string& name) {
  const ComponentInfo& part = bundle_.component(name);
  auto graph = std::make_shared<Graph>(bundle_.path(part), part, graph_options(name));
  const int64_t width = sizes().hidden_size;
  const int64_t logits = name == "image_head" ? sizes().codebook_size : sizes().vocab_size;
  return [graph, width, logits](const float* hidden, int64_t rows, float* to, const Cancel& cancel) {
    graph->run({floats("hidden", {rows, width}, hidden)}, {floats("logits", {rows, logits}, to)}, cancel);
  };
}

const Table& Engines::table(const std::string& name) {
  Slot& slot = slots_.at(name);
  const std::lock_guard<std::mutex> lock(slot.mutex);
  if (!slot.is_table_checked) bundle_.check_unchanged(name);
  slot.is_table_checked = true;
  return *bundle_.tables.at(name);
}

void Engines::open(const std::vector<std::string>& names) {
  const auto open_one = [&](size_t index) {
    const std::string& name = names[index];
    if (name.rfind("decoder", 0) == 0)
      decoder(name);
    else if (name == "text_head" || name == "image_head")
      head(name);
    else if (name == "vision_encoder" || name == "vision_aligner" || name == "image_decoder" || name == kPreviewDecoder)
      stage(name);
    else
      graph(name);
  };
  if (device_.is_cpu()) return in_parallel(names.size(), open_one);
  for (size_t i = 0; i < names.size(); ++i) open_one(i);  // on one thread: work on a GPU has an order
}

DecoderNames Engines::decoder_names(bool needs_steps, bool has_prefill) {
  std::string prefill = "decoder";
  const auto found = slots_.find(kPrefill);
  if (has_prefill && found != slots_.end() && !uses_cpu_kernels() && !uses_cuda_kernels()) {
    const std::unique_lock<std::mutex> lock(found->second.mutex);
    const bool is_open = found->second.decoder != nullptr;
    if (is_open || static_cast<double>(bundle_.num_bytes(kPrefill)) < free_memory()) prefill = kPrefill;
  }
  return {needs_steps ? "decoder" : prefill, prefill};
}

}  // namespace je
