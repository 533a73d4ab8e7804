// The backend cuda_kernels: the decoder and the heads by our GPU kernels (docs/kernels.md), which bundles hold
// compiled. Mirrors runtime/backends/cuda_kernels.py.
#pragma once

#include <memory>
#include <string>

#include "bundle.hpp"
#include "decoder_engine.hpp"

namespace je {

class CudaKernels;

// Return true if a bundle has kernels for this component.
bool has_cuda_kernels(const std::string& component, const Manifest& manifest);

// Return why a bundle's kernels cannot run on a GPU; "" if they can.
std::string why_no_cuda_kernels(const Manifest& manifest, int ordinal);

// Open a GPU and a bundle's kernels on it. Throws Error JE_E_DEVICE.
std::shared_ptr<const CudaKernels> open_cuda_kernels(const Bundle& bundle, int ordinal);

// Open the decoder or a head on a GPU.
std::unique_ptr<DecoderEngine> cuda_decoder(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels);
Head cuda_head(const Bundle& bundle, const std::string& component, std::shared_ptr<const CudaKernels> kernels);

}  // namespace je
