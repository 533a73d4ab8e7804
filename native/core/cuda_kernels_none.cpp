// The backend cuda_kernels on systems that it is not built for.
#include <stdexcept>

#include "cuda_backend.hpp"

namespace je {

bool has_cuda_kernels(const std::string&, const Manifest&) { return false; }

std::string why_no_cuda_kernels(const Manifest&, int) { return ""; }

std::shared_ptr<const CudaKernels> open_cuda_kernels(const Bundle&, int) {
  throw std::logic_error("no GPU kernels here");
}

std::unique_ptr<DecoderEngine> cuda_decoder(const Bundle&, std::shared_ptr<const CudaKernels>) {
  throw std::logic_error("no GPU kernels here");
}

std::shared_ptr<const CudaHead> cuda_head(const Bundle&, const std::string&, std::shared_ptr<const CudaKernels>) {
  throw std::logic_error("no GPU kernels here");
}

Head on_host(std::shared_ptr<const CudaHead>) { throw std::logic_error("no GPU kernels here"); }

std::unique_ptr<CudaLoop> cuda_loop(const Bundle&, std::shared_ptr<const CudaKernels>, const DecoderEngine&,
                                    std::shared_ptr<const CudaHead>, const Table&) {
  throw std::logic_error("no GPU kernels here");
}

}  // namespace je
