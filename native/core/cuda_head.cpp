// The image head and the text head by our GPU kernels: 8-bit weights. Mirrors runtime/backends/cuda_head.py.
#include <algorithm>

#include "cuda_kernels.hpp"

namespace je {
namespace {

constexpr int64_t kMostRows = 16;  // of a launch: a tile of products
constexpr size_t kFloat = 4;

struct Product {
  std::string kernel;
  Words words;
  GpuMemory bias;
};

class CudaHead {
 public:
  CudaHead(const Bundle& bundle, const std::string& name, std::shared_ptr<const CudaKernels> kernels)
      : kernels_(std::move(kernels)), gpu_(*kernels_->gpu()), width_(bundle.manifest.sizes.hidden_size) {
    const std::vector<std::string> names = name == "image_head" ? std::vector<std::string>{"head_hidden", "head_logits"}
                                                                : std::vector<std::string>{"text_logits"};
    const CudaWeights weights(kernels_, bundle, name, name);
    const Gpu::Use use(gpu_);
    const std::vector<std::string> layers = weights.host().chain();
    weights.host().require(layers.size() == names.size());
    int64_t inputs = width_;
    for (size_t i = 0; i < names.size(); ++i) {
      kernels_->require(names[i], "WIDTH", inputs);
      Words words = weights.words({layers[i]}, kWideBits, inputs);
      inputs = words.outputs;
      GpuMemory bias = weights.bias(layers[i], inputs);
      made_.emplace_back(kernels_->gpu(), static_cast<size_t>(kMostRows * inputs) * kFloat, name);
      products_.push_back({names[i], std::move(words), std::move(bias)});
    }
    const Sizes& sizes = bundle.manifest.sizes;
    weights.host().require(inputs == (name == "image_head" ? sizes.codebook_size : sizes.vocab_size));
    hidden_ = GpuMemory(kernels_->gpu(), static_cast<size_t>(kMostRows * width_) * kFloat, name);
  }

  void run(const float* hidden, int64_t rows, float* logits, const Cancel& cancel) const {
    const Gpu::Use use(gpu_);
    const int64_t outputs = products_.back().words.outputs;
    for (int64_t first = 0; first < rows; first += kMostRows) {
      cancel.check();
      const int64_t count = std::min(kMostRows, rows - first);
      gpu_.upload(hidden_.at(), hidden + first * width_, static_cast<size_t>(count * width_) * kFloat);
      Address given = hidden_.at();
      for (size_t i = 0; i < products_.size(); ++i) {
        const Product& each = products_[i];
        const int64_t block = kernels_->constant(each.kernel, "BLOCK");
        kernels_->launch(each.kernel, (each.words.outputs + block - 1) / block,
                         {given, each.words.words.at(), each.words.scales.at(), each.bias.at(), made_[i].at(),
                          static_cast<int32_t>(count), static_cast<int32_t>(each.words.outputs)},
                         i > 0);
        given = made_[i].at();
      }
      gpu_.download(logits + first * outputs, given, static_cast<size_t>(count * outputs) * kFloat);
      gpu_.wait();
    }
  }

 private:
  std::shared_ptr<const CudaKernels> kernels_;
  const Gpu& gpu_;
  int64_t width_;
  std::vector<Product> products_;
  std::vector<GpuMemory> made_;  // what each product leaves
  GpuMemory hidden_;
};

}  // namespace

Head cuda_head(const Bundle& bundle, const std::string& component, std::shared_ptr<const CudaKernels> kernels) {
  const auto head = std::make_shared<const CudaHead>(bundle, component, std::move(kernels));
  return [head](const float* hidden, int64_t rows, float* logits, const Cancel& cancel) {
    head->run(hidden, rows, logits, cancel);
  };
}

}  // namespace je
