// The decode loop of a code model on a GPU: decoder, head, sampler and look-up are one captured launch per code.
// Positions, lengths and codes stay there; the host reads them a row of the image at a time. Mirrors
// runtime/device_codes.py. Shapes: B images, R rows, D width, V codes, N codes of an image.
#include <algorithm>

#include "cuda_decoder.hpp"
#include "cuda_head.hpp"
#include "sampling.hpp"
#include "table.hpp"

namespace je {
namespace {

const char* const kWhat = "drawing";

// What all drawings share. Its parts live as long as the session.
struct Parts {
  std::shared_ptr<const CudaKernels> kernels;
  const CudaDecoder& decoder;
  std::shared_ptr<const CudaHead> head;
  GpuMemory table;  // (V, D) fp16
  Sizes sizes;
};

class Codes : public CudaCodes {
 public:
  Codes(std::shared_ptr<const Parts> parts, const CodesStart& start)
      : parts_(std::move(parts)),
        gpu_(*parts_->kernels->gpu()),
        caches_(start.caches),
        rows_(static_cast<int64_t>(start.lengths.size())),
        images_(static_cast<int64_t>(start.seeds.size())),
        num_codes_(parts_->sizes.code_grid * parts_->sizes.code_grid) {
    const Gpu::Use use(gpu_);
    const auto make = [&](GpuMemory& memory, int64_t count, size_t bytes) {
      memory = GpuMemory(parts_->kernels->gpu(), static_cast<size_t>(count) * bytes, kWhat);
      gpu_.clear(memory.at(), memory.size());
    };
    const auto fill = [&](GpuMemory& memory, const void* from, size_t count, size_t bytes) {
      memory = GpuMemory(parts_->kernels->gpu(), count * bytes, kWhat);
      gpu_.upload(memory.at(), from, count * bytes);
    };
    make(embeds_, rows_ * parts_->sizes.hidden_size, kFloat);
    make(logits_, rows_ * parts_->sizes.codebook_size, kFloat);
    make(positions_, rows_, kIndex);
    make(codes_, images_, kIndex);
    make(counters_, images_, kIndex);
    make(drawn_, images_ * num_codes_, kIndex);
    // Compared in double: a temperature just below the smallest rounds to it in float.
    const double temperature = is_greedy(start.temperature) ? 0 : start.temperature;
    const float scales[] = {static_cast<float>(start.guidance_scale), static_cast<float>(temperature)};
    const auto top_k = static_cast<int32_t>(std::min<int64_t>(start.top_k, INT32_MAX));
    fill(hidden_, start.hidden.data(), start.hidden.size(), kFloat);
    fill(lengths_, start.lengths.data(), start.lengths.size(), kIndex);
    fill(seeds_, start.seeds.data(), start.seeds.size(), kIndex);
    fill(scales_, scales, 2, kFloat);
    fill(top_ks_, &top_k, 1, sizeof top_k);
    gpu_.wait();  // what was sent may go
  }

  size_t draw(std::vector<int64_t>& codes, const Cancel& cancel) override {
    const Gpu::Use use(gpu_);
    cancel.check();
    const int64_t first = count_, grid = parts_->sizes.code_grid;
    const int64_t end = count_ == 0 ? 1 : std::min((count_ / grid + 1) * grid, num_codes_);
    if (count_ == 0) {  // the prompt's last state is there
      choose();
      ++count_;
    }
    for (; count_ < end; ++count_) step();
    codes.resize(static_cast<size_t>(images_ * num_codes_));
    gpu_.download(codes.data(), drawn_.at(), codes.size() * kIndex);
    gpu_.wait();
    for (int64_t image = 0; image < images_; ++image)
      for (int64_t i = first; i < end; ++i)  // the kernel refuses the logits with -1
        if (codes[static_cast<size_t>(image * num_codes_ + i)] < 0) fail_unsound("logits");
    return static_cast<size_t>(end);
  }

 private:
  void step() {
    const int64_t version = parts_->decoder.prepare_step(caches_, rows_);  // another drawing may have replaced it
    if (version != version_) step_ = RepeatedWork();
    version_ = version;
    step_.send(parts_->kernels->gpu(), [&] {
      parts_->decoder.send_step(caches_, rows_, {embeds_.at(), hidden_.at(), positions_.at(), lengths_.at()});
      choose();
    });
  }

  // Send head, sampler and look-up.
  void choose() const {
    const auto images = static_cast<int32_t>(images_), rows = static_cast<int32_t>(rows_);
    parts_->head->send(hidden_.at(), rows_, logits_.at());
    parts_->kernels->launch("sample", images_,
                            {logits_.at(), codes_.at(), seeds_.at(), counters_.at(), scales_.at(), top_ks_.at(),
                             static_cast<int32_t>(Stream::kImage), images});
    parts_->kernels->launch("look_up", images_,
                            {codes_.at(), parts_->table.at(), embeds_.at(), drawn_.at(), counters_.at(),
                             positions_.at(), lengths_.at(), images, rows, static_cast<int32_t>(num_codes_)});
  }

  std::shared_ptr<const Parts> parts_;
  const Gpu& gpu_;
  Caches& caches_;
  int64_t rows_, images_, num_codes_, count_ = 0, version_ = -1;
  GpuMemory embeds_, hidden_, positions_, lengths_, logits_, codes_, counters_, drawn_, seeds_, scales_, top_ks_;
  RepeatedWork step_;
};

class Loop : public CudaLoop {
 public:
  explicit Loop(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::unique_ptr<CudaCodes> begin(const CodesStart& start) const override {
    return std::make_unique<Codes>(parts_, start);
  }

 private:
  std::shared_ptr<const Parts> parts_;
};

}  // namespace

std::unique_ptr<CudaLoop> cuda_loop(const Bundle& bundle, std::shared_ptr<const CudaKernels> kernels,
                                    const DecoderEngine& decoder, std::shared_ptr<const CudaHead> head,
                                    const Table& codes) {
  const Sizes& sizes = bundle.manifest.sizes;
  kernels->require("sample", "NUM_CODES", sizes.codebook_size);
  kernels->require("look_up", "WIDTH", sizes.hidden_size);
  const size_t width = static_cast<size_t>(sizes.hidden_size);
  std::vector<float> row(width);
  std::vector<uint16_t> halves;
  for (int64_t code = 0; code < sizes.codebook_size; ++code) {
    codes.copy_row(code, row.data());
    std::transform(row.begin(), row.end(), std::back_inserter(halves), to_fp16);
  }
  const std::shared_ptr<const Gpu> gpu = kernels->gpu();
  const Gpu::Use use(*gpu);
  GpuMemory table(gpu, halves.size() * sizeof halves[0], "the codes' embeddings");
  gpu->upload(table.at(), halves.data(), table.size());
  gpu->wait();
  return std::make_unique<Loop>(std::make_shared<const Parts>(
      Parts{std::move(kernels), static_cast<const CudaDecoder&>(decoder), std::move(head), std::move(table), sizes}));
}

}  // namespace je
