// The decoder by our GPU kernels: 4-bit weights, keys and values in float16. Mirrors runtime/backends/cuda_decoder.py.
// Shapes: R rows, T positions, D width.
#include <algorithm>
#include <array>
#include <map>

#include "cuda_kernels.hpp"
#include "cuda_passes.hpp"
#include "error.hpp"

namespace je {
namespace {

constexpr int64_t kMostParts = 64, kGroup = 128;     // of a product; inputs that it takes at once
constexpr size_t kFloat = 4, kHalf = 2, kIndex = 8;  // bytes
const char* const kWhat = "the decoder";

struct Layer {
  GpuMemory norm;
  Words qkv, output;
  GpuMemory mlp_norm;
  Words gate_up, down;
};

// Memory by which the kernels of a pass hand on what they compute; it grows as passes need it.
struct Scratch {
  GpuMemory streams[2], nothing, parts, normed, qkv, attended, stats, merged, inner;
};

// The launches of a pass, and those of passes that may come again.
struct Sent {
  GpuGraph graph;
  bool has_failed = false;
};
struct Repeated {
  const void* owner = nullptr;  // the decoder whose memory they use
  int64_t version = 0;          // of this memory
  std::map<std::array<int64_t, 5>, Sent> passes;
};

struct CudaCaches : Caches {
  std::vector<GpuMemory> arrays;  // keys and values of each layer
  Repeated repeated;
};

int64_t divided(int64_t number, int64_t by) { return (number + by - 1) / by; }

class CudaDecoder : public DecoderEngine {
 public:
  CudaDecoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels)
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

  std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const override {
    auto made = std::make_unique<CudaCaches>();
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

  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override {
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
    for (const Pass& pass : passes_of(call.rows, call.time, call.last_only)) {
      cancel.check();
      auto& kept = static_cast<CudaCaches&>(caches);
      pass.is_many ? send(kept, pass) : repeat(kept, pass);
    }
    gpu_.download(call.hidden, hidden_.at(), numbers);
    gpu_.wait();
  }

 private:
  // Throw Error JE_E_BUNDLE for kernels that were compiled for other sizes.
  void check_kernels() const {
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

  void grow(GpuMemory& memory, size_t bytes) const {
    if (memory.size() >= bytes) return;
    memory = GpuMemory();
    ++version_;
    memory = GpuMemory(kernels_->gpu(), bytes, kWhat);
  }

  // Return memory for a pass, of one size for all.
  Scratch& scratch_of(const CudaCaches& caches, const Pass& pass) const {
    const auto chunks = static_cast<size_t>(divided(static_cast<int64_t>(caches.length), chunk_));
    Scratch& found = pass.is_many ? many_ : few_;
    const auto rows = static_cast<size_t>(pass.is_many ? kMostMany : kMostRows);
    const auto parts = static_cast<size_t>(pass.is_many ? 1 : parts_);
    const size_t row = static_cast<size_t>(sizes_.hidden_size) * kFloat;
    const auto heads = static_cast<size_t>(heads_), head = static_cast<size_t>(sizes_.head_dim);
    for (GpuMemory& each : found.streams) grow(each, rows * row);
    if (found.nothing.size() == 0) {
      GpuMemory made(kernels_->gpu(), parts * rows * row, kWhat);
      gpu_.clear(made.at(), made.size());
      found.nothing = std::move(made);
    }
    grow(found.parts, parts * rows * row);
    grow(found.normed, rows * row / 2);
    grow(found.qkv, rows * static_cast<size_t>(layers_[0].qkv.outputs) * kFloat);
    grow(found.merged, rows * heads * head * kHalf);
    grow(found.inner, rows * static_cast<size_t>(inner_) * kFloat);
    if (pass.is_many) return found;
    grow(found.attended, rows * heads * chunks * head * kFloat);
    grow(found.stats, rows * heads * chunks * 2 * kFloat);
    return found;
  }

  // Send a pass of few rows: its launches, and as one when it comes again.
  void repeat(CudaCaches& caches, const Pass& pass) const {
    scratch_of(caches, pass);  // amid a capture no memory can grow
    Repeated& kept = caches.repeated;
    if (kept.owner != this || kept.version != version_) kept = {this, version_, {}};
    const auto [found, is_new] = kept.passes.try_emplace({pass.rows, pass.span, pass.time, pass.first, pass.start});
    Sent& sent = found->second;
    if (!is_new && !sent.has_failed) try {
        if (!sent.graph.is_made()) sent.graph = GpuGraph(kernels_->gpu(), [&] { send(caches, pass); });
        return sent.graph.launch();
      } catch (const Error&) {  // it runs without, too; an error of the work itself comes again
        sent = {GpuGraph(), true};
      }
    send(caches, pass);
  }

  // Send the launches of a pass.
  void send(const CudaCaches& caches, const Pass& pass) const {
    const Scratch& to = scratch_of(caches, pass);
    const auto at = static_cast<size_t>((pass.first * pass.time + pass.start) * sizes_.hidden_size) * kFloat;
    Address stream = embeds_.at(at), parts = to.nothing.at();
    bool is_first = true;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      norm(pass, "norm", stream, parts, layer.norm, to.streams[0], to.normed.at(), !is_first);
      is_first = false;
      product(pass, "qkv", to.normed, layer.qkv, to.qkv, layer.qkv.outputs);
      attend(pass, caches, i, to);
      stream = to.streams[0].at();
      parts = to.parts.at();
      product(pass, "output", to.merged, layer.output, to.parts, layer.output.outputs);
      norm(pass, "norm", stream, parts, layer.mlp_norm, to.streams[1], to.normed.at(), true);
      product(pass, "gate_up", to.normed, layer.gate_up, to.inner, inner_);
      stream = to.streams[1].at();
      product(pass, "down", to.inner, layer.down, to.parts, layer.down.outputs);
    }
    norm(pass, "last_norm", stream, parts, norm_, to.streams[0], hidden_.at(at), true);
  }

  void norm(const Pass& pass, const char* name, Address stream, Address parts, const GpuMemory& weights,
            const GpuMemory& kept, Address made, bool overlaps) const {
    kernels_->launch(std::string(name) + pass.ending(), pass.rows,
                     {stream, parts, weights.at(), kept.at(), made, static_cast<int32_t>(pass.rows),
                      static_cast<float>(sizes_.norm_epsilon)},
                     overlaps);
  }

  // A program per tile of rows, block of outputs and part of the inputs.
  void product(const Pass& pass, const char* name, const GpuMemory& given, const Words& weights, const GpuMemory& made,
               int64_t outputs) const {
    const std::string kernel = std::string(name) + pass.ending();
    const bool is_in_parts = kernel == "output" || kernel == "down";
    const int64_t programs = divided(outputs, kernels_->constant(kernel, "BLOCK")) *
                             divided(pass.rows, kernels_->constant(kernel, "ROWS")) * (is_in_parts ? parts_ : 1);
    kernels_->launch(kernel, programs,
                     {given.at(), weights.words.at(), weights.scales.at(), made.at(), static_cast<int32_t>(pass.rows),
                      static_cast<int32_t>(outputs)},
                     true);
  }

  void attend(const Pass& pass, const CudaCaches& caches, size_t layer, const Scratch& to) const {
    const auto slots = static_cast<int32_t>(caches.length);
    const size_t before = static_cast<size_t>(pass.first) * caches.heads * caches.length * caches.item_bytes;
    const std::vector<Argument> given{to.qkv.at(),
                                      cosines_.at(),
                                      sines_.at(),
                                      caches.arrays[2 * layer].at(before),
                                      caches.arrays[2 * layer + 1].at(before),
                                      positions_.at(),
                                      lengths_.at()};
    const std::vector<Argument> part{static_cast<int32_t>(pass.span), static_cast<int32_t>(pass.time),
                                     static_cast<int32_t>(pass.first), static_cast<int32_t>(pass.start)};
    const auto launch = [&](const char* name, int64_t programs, std::vector<Argument> values,
                            const std::vector<Argument>& more) {
      values.insert(values.end(), more.begin(), more.end());
      values.insert(values.end(), part.begin(), part.end());
      kernels_->launch(name, programs, values, true);
    };
    if (!pass.is_step()) launch("write_slots", pass.rows * sizes_.num_kv_heads, given, {slots});
    if (pass.is_many) {
      const int64_t tiles = divided(pass.span, kernels_->constant("attend_many", "ROWS"));
      return launch("attend_many", pass.rows / pass.span * heads_ * tiles, given, {to.merged.at(), slots});
    }
    const int64_t chunks = divided(slots, chunk_), programs = pass.rows * heads_ * chunks;
    launch(pass.is_step() ? "attend" : "attend_kept", programs, given,
           {to.attended.at(), to.stats.at(), slots, static_cast<int32_t>(chunks)});
    launch("merge", pass.rows * heads_, {to.attended.at(), to.stats.at(), positions_.at(), lengths_.at()},
           {to.merged.at(), static_cast<int32_t>(chunks)});
  }

  Sizes sizes_;
  std::shared_ptr<const CudaKernels> kernels_;
  const Gpu& gpu_;
  std::vector<Layer> layers_;
  GpuMemory norm_, cosines_, sines_;
  int64_t heads_ = 0, inner_ = 0, parts_ = 0, chunk_ = 0;
  // Used within a Gpu::Use alone.
  mutable Scratch few_, many_;
  mutable GpuMemory embeds_, hidden_, positions_, lengths_;
  mutable int64_t version_ = 0;  // of this memory: it changes when some is replaced
};

}  // namespace

std::unique_ptr<DecoderEngine> cuda_decoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels) {
  return std::make_unique<CudaDecoder>(bundle, std::move(kernels));
}

}  // namespace je
