#include "cpu_kernels.hpp"

#include <algorithm>
#include <cstdlib>

#include "error.hpp"

extern "C" {
#include "../cpu/decoder.h"
#include "../cpu/head.h"
}

namespace je {
namespace {

constexpr int64_t kBlock = 128;  // inputs that share a scale: in the decoder, in heads
constexpr int64_t kHeadBlock = 32;

// The arrays of a component's data file, which is mapped.
class Weights {
 public:
  Weights(const Bundle& bundle, const ComponentInfo& component)
      : path_(bundle.folder + "/" + component.data.file), tensors_(component.tensors) {
    if (component.data.file.empty())
      fail(JE_E_BUNDLE, bundle.path(component), ": no weights beside it; export the bundle again");
    file_ = Mapped(path_);
  }

  template <class Number>
  const Number* at(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = tensors_.find(name);
    const char* type = sizeof(Number) == 1 ? "uint8" : "float32";
    if (found == tensors_.end() || found->second.dtype != type || found->second.shape != shape)
      fail(JE_E_BUNDLE, path_, ": no ", name, " of the right shape; export the bundle again");
    double size = sizeof(Number);  // a double cannot overflow
    for (const int64_t each : shape) size *= static_cast<double>(each);
    const uint64_t offset = found->second.offset;
    if (static_cast<double>(offset) + size > static_cast<double>(file_.size()) || offset % 4 != 0)
      fail(JE_E_BUNDLE, path_, ": ", name, " is not inside; export the bundle again");
    return reinterpret_cast<const Number*>(file_.data() + offset);
  }

  // Return the number of outputs of a matrix, the first size of its weights; 0 if there are no such weights.
  int64_t outputs(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() || found->second.shape.empty() ? 0 : found->second.shape[0];
  }

  bool has(const std::string& name) const { return tensors_.count(name) > 0; }

 private:
  std::string path_;
  const std::map<std::string, Stored>& tensors_;
  Mapped file_;
};

class CpuCaches : public Caches {
 public:
  CpuCaches(size_t count, size_t bytes, int64_t length) : length_(length) {
    for (size_t i = 0; i < count; ++i) {
      memory_.emplace_back(static_cast<int8_t*>(std::calloc(bytes, 1)), std::free);
      if (!memory_.back()) fail(JE_E_MEMORY, "no memory for keys and values; draw fewer images at once");
      pointers_.push_back(memory_.back().get());
    }
  }

  int8_t* const* pointers() const { return pointers_.data(); }
  int64_t length() const { return length_; }

 private:
  std::vector<std::unique_ptr<int8_t, void (*)(void*)>> memory_;
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
      layer.attention_norm = weights_.at<float>(at + "input_layernorm.weight", {width});
      layer.mlp_norm = weights_.at<float>(at + "post_attention_layernorm.weight", {width});
      layer.key_scales = weights_.at<float>(join("k_", i, ".scale"), {shared});
      layer.value_scales = weights_.at<float>(join("v_", i, ".scale"), {shared});
      layer.q = matrix(at + "q_proj", width);
      layer.k = matrix(at + "k_proj", width, shared);
      layer.v = matrix(at + "v_proj", width, shared);
      layer.o = matrix(at + "o_proj", layer.q.outputs, width);
      layer.gate = matrix(at + "gate_proj", width);
      layer.up = matrix(at + "up_proj", width, layer.gate.outputs);
      layer.down = matrix(at + "down_proj", layer.up.outputs, width);
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
    model_.cos = weights_.at<float>("cos", {sizes_.max_length, head / 2});
    model_.sin = weights_.at<float>("sin", {sizes_.max_length, head / 2});
    model_.norm = weights_.at<float>("hidden.weight", {width});
    model_.layers = layers_.data();
    decoder_ = je_decoder_open(&model_, pool_->get());
    if (decoder_ == nullptr) throw std::bad_alloc();
  }

  ~CpuDecoder() override { je_decoder_close(decoder_); }

  std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const override {
    const int64_t bytes = rows * length * sizes_.num_kv_heads * sizes_.head_dim;
    return std::make_unique<CpuCaches>(2 * layers_.size(), static_cast<size_t>(bytes), length);
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
  // outputs 0: as many as there are.
  je_matrix matrix(const std::string& name, int64_t inputs, int64_t outputs = 0) const {
    const std::string quantized = name + ".weight.quantized";
    const int64_t found = weights_.outputs(quantized), blocks = (inputs + kBlock - 1) / kBlock;
    check(outputs == 0 || found == outputs);
    return {weights_.at<uint8_t>(quantized, {found, blocks, kBlock / 2}),
            weights_.at<float>(name + ".weight.scales", {found, blocks}), static_cast<int32_t>(found),
            static_cast<int32_t>(inputs)};
  }

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

bool decoder_fits(const ComponentInfo& part, const Sizes& sizes) {
  bool is_quantized = false;
  for (const auto& [name, each] : part.tensors) {
    if (each.dtype != "uint8") continue;
    is_quantized = true;
    if (each.shape.empty() || each.shape[0] % 4 != 0) return false;
  }
  return is_quantized && sizes.head_dim % 32 == 0 && sizes.head_dim <= 256;
}

bool head_fits(const ComponentInfo& part, const Sizes& sizes) {
  bool is_quantized = false;
  for (const auto& [name, each] : part.tensors) {
    if (each.dtype != "uint8") continue;
    is_quantized = true;
    const std::vector<int64_t>& s = each.shape;
    if (s.size() != 3 || s[0] % 4 != 0 || s[1] % 2 != 0 || s[2] != kHeadBlock) return false;
  }
  return is_quantized && sizes.hidden_size % 64 == 0;
}

je_byte_matrix head_layer(const Weights& weights, const std::string& name, int64_t inputs) {
  const bool has_bias = weights.has(name + ".bias");
  if (inputs % 64 != 0) fail(JE_E_BUNDLE, name, ": has ", inputs, " inputs, not by 64; export the bundle again");
  const std::string at = name + ".weight.";
  const int64_t outputs = weights.outputs(at + "quantized"), blocks = inputs / kHeadBlock;
  return {weights.at<uint8_t>(at + "quantized", {outputs, blocks, kHeadBlock}),
          weights.at<float>(at + "scales", {outputs, blocks}),
          has_bias ? weights.at<float>(name + ".bias", {outputs}) : nullptr, static_cast<int32_t>(outputs),
          static_cast<int32_t>(inputs)};
}

}  // namespace

Pool::Pool(int num_threads) : pool_(je_pool_open(num_threads)) {
  if (pool_ == nullptr)
    fail(JE_E_ARGUMENT, "num_threads is ", num_threads,
         ": the system has no memory or no thread left for as many; give fewer");
}

Pool::~Pool() { je_pool_close(pool_); }

bool runs_on_cpu_kernels(const std::string& name, const Manifest& manifest) {
  if (je_decoder_runs_here() != JE_DECODER_VERSION) return false;
  const ComponentInfo& part = manifest.components.at(name);
  if (name == "decoder") return decoder_fits(part, manifest.sizes);
  return (name == "image_head" || name == "text_head") && head_fits(part, manifest.sizes);
}

std::unique_ptr<DecoderEngine> cpu_decoder(const Bundle& bundle, std::shared_ptr<Pool> pool) {
  return std::make_unique<CpuDecoder>(bundle, std::move(pool));
}

Head cpu_head(const Bundle& bundle, const std::string& name, std::shared_ptr<Pool> pool) {
  const ComponentInfo& part = bundle.component(name);
  auto weights = std::make_shared<Weights>(bundle, part);
  int64_t inputs = bundle.manifest.sizes.hidden_size;
  std::vector<je_byte_matrix> layers;
  for (const char* layer : {"projected", "logits"}) {  // in this order; a head has `logits` and may have `projected`
    const std::string at = std::string(layer) + ".";
    const bool is_there = std::any_of(part.tensors.begin(), part.tensors.end(),
                                      [&](const auto& each) { return each.first.rfind(at, 0) == 0; });
    if (!is_there && at == "projected.") continue;
    layers.push_back(head_layer(*weights, layer, inputs));
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
