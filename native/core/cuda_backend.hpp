// The backend cuda_kernels: the decoder and the heads by our GPU kernels (docs/kernels.md), which bundles hold
// compiled. Mirrors runtime/backends/cuda_kernels.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "decoder_engine.hpp"

namespace je {

class CudaHead;
class CudaKernels;

// Return true if a bundle has kernels for this component.
bool has_cuda_kernels(const std::string& component, const Manifest& manifest);

// Return why a bundle's kernels cannot run on a GPU; "" if they can.
std::string why_no_cuda_kernels(const Manifest& manifest, int ordinal);

// Open a GPU and a bundle's kernels on it. Throws Error JE_E_DEVICE.
std::shared_ptr<const CudaKernels> open_cuda_kernels(const Bundle& bundle, int ordinal);

// Open the decoder or a head on a GPU.
std::unique_ptr<DecoderEngine> cuda_decoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels);
std::shared_ptr<const CudaHead> cuda_head(const Bundle& bundle, const std::string& component,
                                          std::shared_ptr<const CudaKernels> kernels);

// Return a head on a GPU as a function of arrays on the host.
Head on_host(std::shared_ptr<const CudaHead> head);

// What a drawing on the GPU begins with: caches that hold the prompts (R), their lengths (R) and the hidden states
// (R, D) of their last positions, an image's seed (B), and settings. The caches live on.
struct CodesStart {
  Caches& caches;
  const std::vector<int64_t>& lengths;
  const std::vector<float>& hidden;
  const std::vector<uint64_t>& seeds;
  double guidance_scale, temperature;
  int64_t top_k;
};

// Codes that a GPU draws without the host. Mirrors runtime/device_codes.py. Shapes: B images, N codes of an image.
class CudaCodes {
 public:
  virtual ~CudaCodes() = default;

  // Draw more codes: the first, then those up to the end of a row of the image. Return how many there are of each
  // image. codes (B, N): receives all that there are. Throws Error, Cancelled.
  virtual size_t draw(std::vector<int64_t>& codes, const Cancel& cancel) = 0;
};

// What all drawings of a session share.
class CudaLoop {
 public:
  virtual ~CudaLoop() = default;
  virtual std::unique_ptr<CudaCodes> begin(const CodesStart& start) const = 0;  // Throws Error.
};

// decoder: what cuda_decoder returned. codes: the embeddings of the codes.
std::unique_ptr<CudaLoop> cuda_loop(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels,
                                    const DecoderEngine& decoder, std::shared_ptr<const CudaHead> head,
                                    const Table& codes);

}  // namespace je
