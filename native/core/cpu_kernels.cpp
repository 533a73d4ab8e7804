#include "cpu_kernels.hpp"

#include <algorithm>
#include <cstdlib>

#include "cpu_weights.hpp"
#include "error.hpp"

namespace je {
namespace {

constexpr int kDecoderBits = 4;

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
      layer.q = weights_.matrix(at + "q_proj", kDecoderBits, width);
      layer.k = weights_.matrix(at + "k_proj", kDecoderBits, width, shared);
      layer.v = weights_.matrix(at + "v_proj", kDecoderBits, width, shared);
      layer.o = weights_.matrix(at + "o_proj", kDecoderBits, layer.q.outputs, width);
      layer.gate = weights_.matrix(at + "gate_proj", kDecoderBits, width);
      layer.up = weights_.matrix(at + "up_proj", kDecoderBits, width, layer.gate.outputs);
      layer.down = weights_.matrix(at + "down_proj", kDecoderBits, layer.up.outputs, width);
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
    auto made = std::make_unique<Caches>();
    made->rows = static_cast<size_t>(rows);
    made->heads = static_cast<size_t>(sizes_.num_kv_heads);
    made->length = static_cast<size_t>(length);
    made->item_bytes = static_cast<size_t>(sizes_.head_dim);
    made->memory = allocate_caches(sizes_.num_layers, made->rows * made->heads * made->length * made->item_bytes);
    return made;
  }

  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override {
    const int64_t length = static_cast<int64_t>(caches.length);
    for (int64_t i = 0; i < call.rows; ++i)  // never write outside of the caches
      check(call.lengths[i] >= 0 && call.lengths[i] <= length && call.time <= length);
    std::vector<int8_t*> pointers;
    for (const auto& each : caches.memory) pointers.push_back(static_cast<int8_t*>(each.get()));
    for (int64_t i = 0; i < call.rows * call.time; ++i)  // never read outside of the tables cos and sin
      check(call.positions[i] >= 0 && call.positions[i] < sizes_.max_length);
    const PoolTurn turn(*pool_);
    cancel.check();
    je_decoder_stop_by(decoder_, cancel.flag());
    const int failed = je_decoder_run(decoder_, static_cast<int32_t>(call.rows), static_cast<int32_t>(call.time),
                                      call.embeds, call.positions, call.lengths, static_cast<int32_t>(length),
                                      pointers.data(), call.hidden, call.last_only);
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

bool has_tiles(const ComponentInfo& part, int bits) {
  return std::any_of(part.tensors.begin(), part.tensors.end(), [&](const auto& each) {
    const TileLayout* layout = tile_layout(each.second.dtype);
    return layout != nullptr && layout->bits == bits;
  });
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
  if (name == "decoder")
    return has_tiles(part, kDecoderBits) && head % 32 == 0 && head <= 256 && manifest.cache.dtype == "int8";
  if (name == "image_head" || name == "text_head" || name == "vision_aligner") return has_tiles(part, kWideBits);
  return (name == "vision_encoder" || name == "image_decoder") && !part.tensors.empty() && !part.constants.empty();
}

std::string kernels_in_use() { return je_instructions(); }

std::unique_ptr<DecoderEngine> cpu_decoder(const Bundle& bundle, std::shared_ptr<Pool> pool) {
  return std::make_unique<CpuDecoder>(bundle, std::move(pool));
}

}  // namespace je
