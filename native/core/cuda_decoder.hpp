// The decoder by our GPU kernels: 4-bit weights, keys and values in float16. Mirrors runtime/backends/cuda_decoder.py.
// Shapes: R rows, T positions, D width.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "cuda_kernels.hpp"
#include "cuda_passes.hpp"

namespace je {

// Throws Error as CudaKernels does.
class CudaDecoder : public DecoderEngine {
 public:
  // Arrays of a call on the GPU: embeds and hidden (R, T, D), positions (R, T), lengths (R).
  struct Arrays {
    Address embeds, hidden, positions, lengths;
  };

  CudaDecoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels);

  std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const override;
  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override;

  // Make memory for a step, and return the number of its version: when it changes, a captured step must not be sent any
  // more. Within a Gpu::Use.
  int64_t prepare_step(const Caches& caches, int64_t rows) const;

  // Send a step of one position per row. Within a Gpu::Use.
  void send_step(const Caches& caches, int64_t rows, const Arrays& arrays) const;

 private:
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

  // Passes that may come again.
  struct Repeated {
    const void* owner = nullptr;  // the decoder whose memory they use
    int64_t version = 0;          // of this memory
    std::map<std::array<int64_t, 5>, RepeatedWork> passes;
  };

  struct OnGpu : Caches {
    std::vector<GpuMemory> arrays;  // keys and values of each layer
    Repeated repeated;
  };

  void check_kernels() const;
  void grow(GpuMemory& memory, size_t bytes) const;
  Scratch& scratch_of(const Caches& caches, const Pass& pass) const;
  void repeat(OnGpu& caches, const Pass& pass, const Arrays& arrays) const;
  void send(const OnGpu& caches, const Pass& pass, const Arrays& arrays) const;
  void norm(const Pass& pass, const char* name, Address stream, Address parts, const GpuMemory& weights,
            const GpuMemory& kept, Address made, bool overlaps) const;
  void product(const Pass& pass, const char* name, const GpuMemory& given, const Words& weights, const GpuMemory& made,
               int64_t outputs) const;
  void attend(const OnGpu& caches, const Pass& pass, const Arrays& arrays, size_t layer, const Scratch& to) const;

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

}  // namespace je
