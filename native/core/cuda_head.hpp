// The image head and the text head by our GPU kernels: 8-bit weights. Mirrors runtime/backends/cuda_head.py.
// Shapes: R rows, D width, V codes or tokens.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda_kernels.hpp"

namespace je {

// A head whose weights lie on a GPU. Throws Error as CudaKernels does.
class CudaHead {
 public:
  CudaHead(const Bundle& bundle, const std::string& name, std::shared_ptr<const CudaKernels> kernels);

  // Compute logits (R, V) of hidden states (R, D) on the host. Throws Cancelled, too.
  void run(const float* hidden, int64_t rows, float* logits, const Cancel& cancel) const;

  // Send the work for arrays on the GPU. Within a Gpu::Use.
  void send(Address hidden, int64_t rows, Address logits) const;

 private:
  struct Product {
    std::string kernel;
    Words words;
    GpuMemory bias;
  };

  void send_tile(Address hidden, int64_t count, Address logits) const;

  std::shared_ptr<const CudaKernels> kernels_;
  const Gpu& gpu_;
  int64_t width_, outputs_ = 0;
  std::vector<Product> products_;
  std::vector<GpuMemory> made_;  // what each product leaves
  GpuMemory hidden_;
};

}  // namespace je
