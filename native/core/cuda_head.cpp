#include "cuda_head.hpp"

#include <algorithm>

#include "cuda_passes.hpp"

namespace je {

CudaHead::CudaHead(const Bundle& bundle, const std::string& name, std::shared_ptr<const CudaKernels> kernels)
    : kernels_(std::move(kernels)), gpu_(*kernels_->gpu()), width_(bundle.manifest.sizes.hidden_size) {
  const std::vector<std::string> names = name == "image_head" ? std::vector<std::string>{"head_hidden", "head_logits"}
                                                              : std::vector<std::string>{"text_logits"};
  const CudaWeights weights(kernels_, bundle, name, name);
  const Gpu::Use use(gpu_);
  const std::vector<std::string> layers = weights.host().chain();
  weights.host().require(layers.size() == names.size());
  outputs_ = width_;
  for (size_t i = 0; i < names.size(); ++i) {
    kernels_->require(names[i], "WIDTH", outputs_);
    Words words = weights.words({layers[i]}, kWideBits, outputs_);
    outputs_ = words.outputs;
    GpuMemory bias = weights.bias(layers[i], outputs_);
    made_.emplace_back(kernels_->gpu(), static_cast<size_t>(kMostRows * outputs_) * kFloat, name);
    products_.push_back({names[i], std::move(words), std::move(bias)});
  }
  const Sizes& sizes = bundle.manifest.sizes;
  weights.host().require(outputs_ == (name == "image_head" ? sizes.codebook_size : sizes.vocab_size));
  hidden_ = GpuMemory(kernels_->gpu(), static_cast<size_t>(kMostRows * width_) * kFloat, name);
}

void CudaHead::run(const float* hidden, int64_t rows, float* logits, const Cancel& cancel) const {
  const Gpu::Use use(gpu_);
  for (int64_t first = 0; first < rows; first += kMostRows) {
    cancel.check();
    const int64_t count = std::min(kMostRows, rows - first);
    gpu_.upload(hidden_.at(), hidden + first * width_, static_cast<size_t>(count * width_) * kFloat);
    send_tile(hidden_.at(), count, made_.back().at());
    gpu_.download(logits + first * outputs_, made_.back().at(), static_cast<size_t>(count * outputs_) * kFloat);
    gpu_.wait();
  }
}

void CudaHead::send(Address hidden, int64_t rows, Address logits) const {
  for (int64_t first = 0; first < rows; first += kMostRows)
    send_tile(hidden + static_cast<size_t>(first * width_) * kFloat, std::min(kMostRows, rows - first),
              logits + static_cast<size_t>(first * outputs_) * kFloat);
}

// Send the products of a tile of rows.
void CudaHead::send_tile(Address hidden, int64_t count, Address logits) const {
  Address given = hidden;
  for (size_t i = 0; i < products_.size(); ++i) {
    const Product& each = products_[i];
    const int64_t block = kernels_->constant(each.kernel, "BLOCK");
    const Address made = i + 1 == products_.size() ? logits : made_[i].at();
    kernels_->launch(each.kernel, (each.words.outputs + block - 1) / block,
                     {given, each.words.words.at(), each.words.scales.at(), each.bias.at(), made,
                      static_cast<int32_t>(count), static_cast<int32_t>(each.words.outputs)},
                     i > 0);
    given = made;
  }
}

std::shared_ptr<const CudaHead> cuda_head(const Bundle& bundle, const std::string& component,
                                          std::shared_ptr<const CudaKernels> kernels) {
  return std::make_shared<const CudaHead>(bundle, component, std::move(kernels));
}

Head on_host(std::shared_ptr<const CudaHead> head) {
  return [head = std::move(head)](const float* hidden, int64_t rows, float* logits, const Cancel& cancel) {
    head->run(hidden, rows, logits, cancel);
  };
}

}  // namespace je
