// The launches of a pass of the decoder, and the memory between them.
#include "cuda_decoder.hpp"

namespace je {
namespace {

const char* const kWhat = "the decoder";

int64_t divided(int64_t number, int64_t by) { return (number + by - 1) / by; }

}  // namespace

// Return memory for a pass, of one size for all.
CudaDecoder::Scratch& CudaDecoder::scratch_of(const Caches& caches, const Pass& pass) const {
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

// Send the launches of a pass.
void CudaDecoder::send(const OnGpu& caches, const Pass& pass, const Arrays& arrays) const {
  const Scratch& to = scratch_of(caches, pass);
  const auto at = static_cast<size_t>((pass.first * pass.time + pass.start) * sizes_.hidden_size) * kFloat;
  Address stream = arrays.embeds + at, parts = to.nothing.at();
  bool is_first = true;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(pass, "norm", stream, parts, layer.norm, to.streams[0], to.normed.at(), !is_first);
    is_first = false;
    product(pass, "qkv", to.normed, layer.qkv, to.qkv, layer.qkv.outputs);
    attend(caches, pass, arrays, i, to);
    stream = to.streams[0].at();
    parts = to.parts.at();
    product(pass, "output", to.merged, layer.output, to.parts, layer.output.outputs);
    norm(pass, "norm", stream, parts, layer.mlp_norm, to.streams[1], to.normed.at(), true);
    product(pass, "gate_up", to.normed, layer.gate_up, to.inner, inner_);
    stream = to.streams[1].at();
    product(pass, "down", to.inner, layer.down, to.parts, layer.down.outputs);
  }
  norm(pass, "last_norm", stream, parts, norm_, to.streams[0], arrays.hidden + at, true);
}

void CudaDecoder::norm(const Pass& pass, const char* name, Address stream, Address parts, const GpuMemory& weights,
                       const GpuMemory& kept, Address made, bool overlaps) const {
  kernels_->launch(std::string(name) + pass.ending(), pass.rows,
                   {stream, parts, weights.at(), kept.at(), made, static_cast<int32_t>(pass.rows),
                    static_cast<float>(sizes_.norm_epsilon)},
                   overlaps);
}

// A program per tile of rows, block of outputs and part of the inputs.
void CudaDecoder::product(const Pass& pass, const char* name, const GpuMemory& given, const Words& weights,
                          const GpuMemory& made, int64_t outputs) const {
  const std::string kernel = std::string(name) + pass.ending();
  const bool is_in_parts = kernel == "output" || kernel == "down";
  const int64_t programs = divided(outputs, kernels_->constant(kernel, "BLOCK")) *
                           divided(pass.rows, kernels_->constant(kernel, "ROWS")) * (is_in_parts ? parts_ : 1);
  kernels_->launch(kernel, programs,
                   {given.at(), weights.words.at(), weights.scales.at(), made.at(), static_cast<int32_t>(pass.rows),
                    static_cast<int32_t>(outputs)},
                   true);
}

void CudaDecoder::attend(const OnGpu& caches, const Pass& pass, const Arrays& arrays, size_t layer,
                         const Scratch& to) const {
  const auto slots = static_cast<int32_t>(caches.length);
  const size_t before = static_cast<size_t>(pass.first) * caches.heads * caches.length * caches.item_bytes;
  const std::vector<Argument> given{to.qkv.at(),
                                    cosines_.at(),
                                    sines_.at(),
                                    caches.arrays[2 * layer].at(before),
                                    caches.arrays[2 * layer + 1].at(before),
                                    arrays.positions,
                                    arrays.lengths};
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
  launch("merge", pass.rows * heads_, {to.attended.at(), to.stats.at(), arrays.positions, arrays.lengths},
         {to.merged.at(), static_cast<int32_t>(chunks)});
}

}  // namespace je
