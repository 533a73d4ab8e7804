// The backend cpu_kernels on systems that it is not built for: ONNX Runtime runs all components.
#include <stdexcept>

#include "cpu_kernels.hpp"

namespace je {

bool runs_on_cpu_kernels(const std::string&, const Manifest&) { return false; }

std::string kernels_in_use() { return ""; }

Pool::Pool(int) : pool_(nullptr) {}
Pool::~Pool() = default;

std::unique_ptr<DecoderEngine> cpu_decoder(const Bundle&, std::shared_ptr<Pool>) {
  throw std::logic_error("no decoder of our own here");
}

Head cpu_head(const Bundle&, const std::string&, std::shared_ptr<Pool>) {
  throw std::logic_error("no decoder of our own here");
}

Stage cpu_stage(const Bundle&, const std::string&, std::shared_ptr<Pool>) {
  throw std::logic_error("no decoder of our own here");
}

}  // namespace je
