#include "cpu_kernels.hpp"

#include <algorithm>
#include <cstdlib>

#include "error.hpp"
#include "kv_cache.hpp"
#include "tiles.hpp"

extern "C" {
#include "../cpu/decoder.h"
#include "../cpu/head.h"
}

namespace je {
namespace {

const char kDecoderType[] = "int4_tiles", kHeadType[] = "int8_tiles";  // of weights

// The arrays of a component's data file, which is mapped.
class Weights {
 public:
  Weights(const Bundle& bundle, const ComponentInfo& component)
      : path_(data_path(bundle.folder, component)), tensors_(component.tensors), file_(path_) {}

  // Return the address of numbers of this shape.
  const float* floats(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.dtype != "float32" || found->second.shape != shape)
      fail(JE_E_BUNDLE, path_, ": no ", name, " of the right shape; export the bundle again");
    double size = sizeof(float);  // a double cannot overflow
    for (const int64_t each : shape) size *= static_cast<double>(each);
    return reinterpret_cast<const float*>(inside(path_, name, file_.data(), file_.size(), found->second.offset, size));
  }

  // Return the weights of a matmul, and its bias if it has one. outputs 0: as many as there are.
  je_matrix matrix(const std::string& layer, const char* dtype, int64_t inputs, int64_t outputs = 0) const {
    const std::string name = layer + ".weight.tiles", bias = layer + ".bias";
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.dtype != dtype || found->second.shape.size() != 2 ||
        found->second.shape[1] != inputs || (outputs != 0 && found->second.shape[0] != outputs))
      fail(JE_E_BUNDLE, path_, ": no ", name, " of the right shape; export the bundle again");
    const TileLayout& layout = *tile_layout(dtype);
    outputs = found->second.shape[0];
    const double size = layout.size(outputs, inputs);
    return {inside(path_, name, file_.data(), file_.size(), found->second.offset, size),
            tensors_.count(bias) ? floats(bias, {outputs}) : nullptr, static_cast<int32_t>(outputs),
            static_cast<int32_t>(inputs), layout.bits};
  }

 private:
  std::string path_;
  const std::map<std::string, Stored>& tensors_;
  Mapped file_;
};

class CpuCaches : public Caches {
 public:
  CpuCaches(int64_t num_layers, size_t bytes, int64_t length)
      : memory_(allocate_caches(num_layers, bytes)), length_(length) {
    for (const auto& each : memory_) pointers_.push_back(static_cast<int8_t*>(each.get()));
  }

  int8_t* const* pointers() const { return pointers_.data(); }
  int64_t length() const { return length_; }

 private:
  CacheMemory memory_;
  std::vector<int8_t*> pointers_;
  int64_t length_;
};

class CpuDecoder : public DecoderEngine {
 public:
  CpuDecoder(const Bundle& bundle, std::shared_ptr<Pool> pool)
      : sizes_(bundle.manifest.sizes), weights_(bundle, bundle.component("decoder")), pool_(std::move(pool)) {
    const int64_t width = sizes_.hidden_size, head = sizes_.head_dim;
    const int64_t shared = sizes_.num_kv_heads * head;
    for (int64_t i = 0; i < sizes_.num_layers; ++i) {
      const std::string at = join("layers.", i, ".");
      je_layer& layer = layers_.emplace_back();
      layer.attention_norm = weights_.floats(at + "input_layernorm.weight", {width});
      layer.mlp_norm = weights_.floats(at + "post_attention_layernorm.weight", {width});
      layer.key_scales = weights_.floats(join("k_", i, ".scale"), {shared});
      layer.value_scales = weights_.floats(join("v_", i, ".scale"), {shared});
      layer.q = weights_.matrix(at + "q_proj", kDecoderType, width);
      layer.k = weights_.matrix(at + "k_proj", kDecoderType, width, shared);
      layer.v = weights_.matrix(at + "v_proj", kDecoderType, width, shared);
      layer.o = weights_.matrix(at + "o_proj", kDecoderType, layer.q.outputs, width);
      layer.gate = weights_.matrix(at + "gate_proj", kDecoderType, width);
      layer.up = weights_.matrix(at + "up_proj", kDecoderType, width, layer.gate.outputs);
      layer.down = weights_.matrix(at + "down_proj", kDecoderType, layer.up.outputs, width);
      check(layer.q.outputs == layers_[0].q.outputs && layer.up.outputs == layers_[0].up.outputs);
    }
    const int32_t heads = layers_[0].q.outputs / static_cast<int32_t>(head);
    check(heads > 0 && heads % sizes_.num_kv_heads == 0 && heads * head == layers_[0].q.outputs);
    model_.num_layers = static_cast<int32_t>(sizes_.num_layers);
    model_.width = static_cast<int32_t>(width);
    model_.num_heads = heads;
    model_.num_kv_heads = static_cast<int32_t>(sizes_.num_kv_heads);
    model_.head_dim = static_cast<int32_t>(head);
    model_.epsilon = static_cast<float>(sizes_.norm_epsilon);
    model_.cos = weights_.floats("cos", {sizes_.max_length, head / 2});
    model_.sin = weights_.floats("sin", {sizes_.max_length, head / 2});
    model_.norm = weights_.floats("hidden.weight", {width});
    model_.layers = layers_.data();
    decoder_ = je_decoder_open(&model_, pool_->get());
    if (decoder_ == nullptr) throw std::bad_alloc();
  }

  ~CpuDecoder() override { je_decoder_close(decoder_); }

  std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const override {
    const int64_t bytes = rows * length * sizes_.num_kv_heads * sizes_.head_dim;
    return std::make_unique<CpuCaches>(sizes_.num_layers, static_cast<size_t>(bytes), length);
  }

  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override {
    const auto& kv = static_cast<const CpuCaches&>(caches);
    for (int64_t i = 0; i < call.rows; ++i)  // never write outside of the caches
      check(call.lengths[i] >= 0 && call.lengths[i] <= kv.length() && call.time <= kv.length());
    for (int64_t i = 0; i < call.rows * call.time; ++i)  // never read outside of the tables cos and sin
      check(call.positions[i] >= 0 && call.positions[i] < sizes_.max_length);
    const std::lock_guard<std::mutex> lock(pool_->mutex());
    cancel.check();
    je_decoder_stop_by(decoder_, cancel.flag());
    const int failed =
        je_decoder_run(decoder_, static_cast<int32_t>(call.rows), static_cast<int32_t>(call.time), call.embeds,
                       call.positions, call.lengths, static_cast<int32_t>(kv.length()), kv.pointers(), call.hidden);
    if (failed > 0) throw Cancelled();
    if (failed < 0) fail(JE_E_MEMORY, "no memory for ", call.rows, " rows of ", call.time, " positions");
  }

 private:
  static void check(bool fits) {
    if (!fits) fail(JE_E_BUNDLE, "decoder: its sizes do not fit together; export the bundle again");
  }

  Sizes sizes_;
  Weights weights_;
  std::shared_ptr<Pool> pool_;
  std::vector<je_layer> layers_;
  je_model model_{};
  je_decoder* decoder_;
};

bool has_type(const ComponentInfo& part, const char* dtype) {
  return std::any_of(part.tensors.begin(), part.tensors.end(),
                     [&](const auto& each) { return each.second.dtype == dtype; });
}

}  // namespace

Pool::Pool(int num_threads) : pool_(je_pool_open(num_threads)) {
  if (pool_ == nullptr)
    fail(JE_E_ARGUMENT, "num_threads is ", num_threads,
         ": the system has no memory or no thread left for as many; give fewer");
}

Pool::~Pool() { je_pool_close(pool_); }

// Use the instruction set that the environment names, once. Return false if there is none to use.
static bool chooses_instructions() {
  static const bool kIsThere = [] {
    const char* name = std::getenv("JANUS_EDGE_CPU_KERNELS");  // as runtime/backends/cpu_library.py
    if (name != nullptr && std::string(name) == "none") return false;
    if (name != nullptr && *name != '\0' && je_choose_instructions(name) != 1)
      fail(JE_E_ARGUMENT, "JANUS_EDGE_CPU_KERNELS is ", name, ": this processor or version has none of this name");
    return je_decoder_runs_here() == JE_DECODER_VERSION;
  }();
  return kIsThere;
}

bool runs_on_cpu_kernels(const std::string& name, const Manifest& manifest) {
  if (!chooses_instructions()) return false;
  const ComponentInfo& part = manifest.components.at(name);
  const int64_t head = manifest.sizes.head_dim;
  if (name == "decoder") return has_type(part, kDecoderType) && head % 32 == 0 && head <= 256;
  return (name == "image_head" || name == "text_head") && has_type(part, kHeadType);
}

std::unique_ptr<DecoderEngine> cpu_decoder(const Bundle& bundle, std::shared_ptr<Pool> pool) {
  return std::make_unique<CpuDecoder>(bundle, std::move(pool));
}

Head cpu_head(const Bundle& bundle, const std::string& name, std::shared_ptr<Pool> pool) {
  const ComponentInfo& part = bundle.component(name);
  auto weights = std::make_shared<Weights>(bundle, part);
  int64_t inputs = bundle.manifest.sizes.hidden_size;
  std::vector<je_matrix> layers;
  for (const char* layer : {"projected", "logits"}) {  // in this order; a head has `logits` and may have `projected`
    const std::string at = std::string(layer) + ".";
    const bool is_there = std::any_of(part.tensors.begin(), part.tensors.end(),
                                      [&](const auto& each) { return each.first.rfind(at, 0) == 0; });
    if (!is_there && at == "projected.") continue;
    layers.push_back(weights->matrix(layer, kHeadType, inputs));
    inputs = layers.back().outputs;
  }
  const Sizes& sizes = bundle.manifest.sizes;
  const int64_t expected = name == "image_head" ? sizes.codebook_size : sizes.vocab_size;
  if (inputs != expected)
    fail(JE_E_BUNDLE, bundle.path(part), ": gives ", inputs, " logits, not ", expected, "; export the bundle again");
  return [weights, layers, pool = std::move(pool)](const float* hidden, int64_t rows, float* logits,
                                                   const Cancel& cancel) {
    const std::lock_guard<std::mutex> lock(pool->mutex());
    cancel.check();
    if (je_head_run(pool->get(), layers.data(), static_cast<int32_t>(layers.size()), static_cast<int32_t>(rows), hidden,
                    logits) != 0)
      fail(JE_E_MEMORY, "no memory for ", rows, " rows of a head");
    if (!are_finite(logits, static_cast<size_t>(rows * layers.back().outputs)))
      fail(JE_E_BUNDLE, "a head computes what is no finite number; export the bundle again");
  };
}

}  // namespace je
