#include "cuda_decoder.hpp"

#include "error.hpp"

namespace je {
namespace {

constexpr int64_t kMostParts = 64, kGroup = 128;  // of a product; inputs that it takes at once
const char* const kWhat = "the decoder";

}  // namespace

CudaDecoder::CudaDecoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels)
    : sizes_(bundle.manifest.sizes), kernels_(std::move(kernels)), gpu_(*kernels_->gpu()) {
  const CudaWeights weights(kernels_, bundle, "decoder", kWhat);
  const Gpu::Use use(gpu_);
  const int64_t width = sizes_.hidden_size, shared = sizes_.num_kv_heads * sizes_.head_dim;
  for (int64_t i = 0; i < sizes_.num_layers; ++i) {
    const std::string at = join("layers.", i, ".");
    Layer layer;
    layer.norm = weights.vector(at + "input_layernorm.weight", {width});
    layer.qkv = weights.words({at + "q_proj", at + "k_proj", at + "v_proj"}, 4, width);
    layer.output = weights.words({at + "o_proj"}, 4, layer.qkv.outputs - 2 * shared, width);
    layer.mlp_norm = weights.vector(at + "post_attention_layernorm.weight", {width});
    layer.gate_up = weights.words({at + "gate_proj", at + "up_proj"}, 4, width, 0, kGroup);
    layer.down = weights.words({at + "down_proj"}, 4, 0, width);
    const auto outputs = [&](const char* name) { return weights.host().matrix(at + name, 4, width).outputs; };
    weights.host().require(outputs("k_proj") == shared && outputs("v_proj") == shared);
    weights.host().require(outputs("gate_proj") == outputs("up_proj"));
    layers_.push_back(std::move(layer));
  }
  for (const Layer& each : layers_) {  // whose sizes the first one stands for
    weights.host().require(each.qkv.outputs == layers_[0].qkv.outputs);
    weights.host().require(each.gate_up.outputs == 2 * each.down.inputs);
    weights.host().require(each.down.inputs == layers_[0].down.inputs);
  }
  norm_ = weights.vector("hidden.weight", {width});
  cosines_ = weights.vector("cos", {sizes_.max_length, sizes_.head_dim / 2});
  sines_ = weights.vector("sin", {sizes_.max_length, sizes_.head_dim / 2});
  heads_ = layers_[0].qkv.outputs / sizes_.head_dim - 2 * sizes_.num_kv_heads;
  inner_ = layers_[0].down.inputs;
  weights.host().require(heads_ > 0 && heads_ % sizes_.num_kv_heads == 0);
  weights.host().require(heads_ * sizes_.head_dim + 2 * shared == layers_[0].qkv.outputs);
  parts_ = kernels_->constant("output", "SPLITS");
  weights.host().require(parts_ <= kMostParts);
  chunk_ = kernels_->constant("attend", "CHUNK");
  check_kernels();
}

std::unique_ptr<Caches> CudaDecoder::caches(int64_t rows, int64_t length) const {
  auto made = std::make_unique<OnGpu>();
  made->is_on_device = true;
  made->rows = static_cast<size_t>(rows);
  made->heads = static_cast<size_t>(sizes_.num_kv_heads);
  made->length = static_cast<size_t>(length);
  made->item_bytes = static_cast<size_t>(sizes_.head_dim) * kHalf;
  const Gpu::Use use(gpu_);
  for (int64_t i = 0; i < 2 * sizes_.num_layers; ++i) {
    const size_t bytes = made->rows * made->heads * made->length * made->item_bytes;
    made->arrays.emplace_back(kernels_->gpu(), bytes, "the decoder's keys and values");
    gpu_.clear(made->arrays.back().at(), bytes);
  }
  return made;
}

void CudaDecoder::run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const {
  const int64_t slots = static_cast<int64_t>(caches.length), count = call.rows * call.time;
  bool fits = call.time <= slots;  // never write outside of the caches, never read outside of the angles
  for (int64_t i = 0; i < call.rows; ++i) fits = fits && call.lengths[i] >= 0 && call.lengths[i] <= slots;
  for (int64_t i = 0; i < count; ++i) fits = fits && call.positions[i] >= 0 && call.positions[i] < sizes_.max_length;
  if (!fits) fail(JE_E_BUNDLE, "decoder: its sizes do not fit together; export the bundle again");
  const size_t numbers = static_cast<size_t>(count * sizes_.hidden_size) * kFloat;
  const Gpu::Use use(gpu_);
  cancel.check();
  grow(embeds_, numbers);
  grow(hidden_, numbers);
  grow(positions_, static_cast<size_t>(count) * kIndex);
  grow(lengths_, static_cast<size_t>(call.rows) * kIndex);
  gpu_.upload(embeds_.at(), call.embeds, numbers);
  gpu_.upload(positions_.at(), call.positions, static_cast<size_t>(count) * kIndex);
  gpu_.upload(lengths_.at(), call.lengths, static_cast<size_t>(call.rows) * kIndex);
  const Arrays arrays{embeds_.at(), hidden_.at(), positions_.at(), lengths_.at()};
  for (const Pass& pass : passes_of(call.rows, call.time, call.last_only)) {
    cancel.check();
    auto& kept = static_cast<OnGpu&>(caches);
    pass.is_many ? send(kept, pass, arrays) : repeat(kept, pass, arrays);
  }
  gpu_.download(call.hidden, hidden_.at(), numbers);
  gpu_.wait();
}

// Throw Error JE_E_BUNDLE for kernels that were compiled for other sizes.
void CudaDecoder::check_kernels() const {
  const int64_t width = sizes_.hidden_size, head = sizes_.head_dim, kv = sizes_.num_kv_heads;
  for (const std::string ending : {"", "_many"}) {
    const int64_t parts = ending.empty() ? parts_ : 1;
    for (const char* name : {"norm", "last_norm"}) {
      kernels_->require(name + ending, "WIDTH", width);
      kernels_->require(name + ending, "PARTS", parts);
    }
    kernels_->require("qkv" + ending, "INPUTS", width);
    kernels_->require("qkv" + ending, "SPLITS", 1);
    kernels_->require("output" + ending, "INPUTS", heads_ * head);
    kernels_->require("output" + ending, "SPLITS", parts);
    kernels_->require("gate_up" + ending, "WIDTH", width);
    kernels_->require("down" + ending, "INPUTS", inner_);
    kernels_->require("down" + ending, "SPLITS", parts);
  }
  for (const char* name : {"attend", "attend_kept", "attend_many"}) {
    kernels_->require(name, "HEADS", heads_);
    kernels_->require(name, "SHARED", heads_ / kv);
    kernels_->require(name, "HALF", head / 2);
  }
  kernels_->require("attend_kept", "CHUNK", chunk_);
  kernels_->require("write_slots", "KV_HEADS", kv);
  kernels_->require("write_slots", "QUERIES", heads_ * head);
  kernels_->require("write_slots", "HALF", head / 2);
  kernels_->require("merge", "HEADS", heads_);
  kernels_->require("merge", "HEAD", head);
  kernels_->require("merge", "CHUNK", chunk_);
}

void CudaDecoder::grow(GpuMemory& memory, size_t bytes) const {
  if (memory.size() >= bytes) return;
  memory = GpuMemory();
  ++version_;
  memory = GpuMemory(kernels_->gpu(), bytes, kWhat);
}

// Send a pass of few rows: its launches, and as one when it comes again.
void CudaDecoder::repeat(OnGpu& caches, const Pass& pass, const Arrays& arrays) const {
  scratch_of(caches, pass);  // amid a capture no memory can grow
  Repeated& kept = caches.repeated;
  if (kept.owner != this || kept.version != version_) kept = {this, version_, {}};
  kept.passes[{pass.rows, pass.span, pass.time, pass.first, pass.start}].send(kernels_->gpu(),
                                                                              [&] { send(caches, pass, arrays); });
}

int64_t CudaDecoder::prepare_step(const Caches& caches, int64_t rows) const {
  for (const Pass& pass : passes_of(rows, 1, false)) scratch_of(caches, pass);
  return version_;
}

void CudaDecoder::send_step(const Caches& caches, int64_t rows, const Arrays& arrays) const {
  for (const Pass& pass : passes_of(rows, 1, false)) send(static_cast<const OnGpu&>(caches), pass, arrays);
}

std::unique_ptr<DecoderEngine> cuda_decoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels) {
  return std::make_unique<CudaDecoder>(bundle, std::move(kernels));
}

}  // namespace je
