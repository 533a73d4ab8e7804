// A bundle's kernels on a GPU, and weights laid out for them. Mirrors runtime/backends/cubins.py and cuda_weights.py.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "cpu_weights.hpp"
#include "cuda_backend.hpp"
#include "cuda_driver.hpp"

namespace je {

// An argument of a kernel: an address, a whole number or a float, of the type that the manifest names.
struct Argument {
  template <class Number>
  Argument(Number number) {  // NOLINT: converts on purpose
    std::memcpy(&bits, &number, sizeof number);
  }
  uint64_t bits = 0;
};

// The kernels of a bundle that run on a GPU. Each is loaded when it is first launched. Functions are called within a
// Gpu::Use. They throw Error JE_E_BUNDLE, JE_E_DEVICE, JE_E_MEMORY.
class CudaKernels {
 public:
  CudaKernels(const Bundle& bundle, int ordinal);

  const std::shared_ptr<const Gpu>& gpu() const { return gpu_; }

  // Send a launch to the stream. overlaps: what was sent before it is a kernel, too; then this one may begin before
  // that one has ended, if it was compiled so.
  void launch(const std::string& name, int64_t programs, const std::vector<Argument>& values,
              bool overlaps = false) const;

  // Return a constant that a kernel was compiled with, from 1 to 65536; check that it has a value.
  int64_t constant(const std::string& name, const std::string& key) const;
  void require(const std::string& name, const std::string& key, int64_t value) const;

 private:
  const KernelInfo& find(const std::string& name) const;

  std::string folder_;
  std::shared_ptr<const Gpu> gpu_;
  std::map<std::string, KernelInfo> kernels_;
  mutable std::map<std::string, void*> functions_;
};

// A matrix on a GPU, in words (kernels/quantized.py). outputs: with what fills them up. inputs: in whole blocks.
struct Words {
  GpuMemory words, scales;
  int64_t outputs = 0, inputs = 0;
};

// Copies a component's weights to a GPU. Functions are called within a Gpu::Use, and throw as those of CudaKernels.
class CudaWeights {
 public:
  // what: names them in the error for memory that is short.
  CudaWeights(std::shared_ptr<const CudaKernels> kernels, const Bundle& bundle, const std::string& component,
              std::string what);

  const Weights& host() const { return host_; }
  GpuMemory vector(const std::string& name, const std::vector<int64_t>& shape) const;

  // Return a layer's bias, zeros if it has none.
  GpuMemory bias(const std::string& layer, int64_t outputs) const;

  // Return the weights of layers that take the same, those of one after another. inputs, outputs 0: as many as there
  // are. multiple: each layer's outputs are filled up to a multiple of it.
  Words words(const std::vector<std::string>& layers, int bits, int64_t inputs = 0, int64_t outputs = 0,
              int64_t multiple = 1) const;

 private:
  std::shared_ptr<const CudaKernels> kernels_;
  Weights host_;
  std::string what_;
};

}  // namespace je
