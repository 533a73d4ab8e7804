#include "cached_decoder.hpp"

namespace je {

CachedDecoder::CachedDecoder(const DecoderEngine& step, const DecoderEngine& prefill, int64_t width, int64_t rows,
                             int64_t length)
    : step_(step),
      prefill_(prefill),
      width_(static_cast<size_t>(width)),
      rows_(static_cast<size_t>(rows)),
      caches_(step.caches(rows, length)) {}

const float* CachedDecoder::run(const DecoderEngine& engine, int64_t time, const float* embeds,
                                const std::vector<int64_t>& positions, const std::vector<int64_t>& lengths,
                                const Cancel& cancel, bool last_only) {
  hidden_.resize(rows_ * static_cast<size_t>(time) * width_);
  engine.run(*caches_,
             {static_cast<int64_t>(rows_), time, embeds, positions.data(), lengths.data(), hidden_.data(), last_only},
             cancel);
  return hidden_.data();
}

const float* CachedDecoder::prefill(const std::vector<float>& embeds, const std::vector<int64_t>& lengths,
                                    const Cancel& cancel) {
  const size_t time = embeds.size() / (rows_ * width_);
  std::vector<int64_t> positions;
  for (size_t row = 0; row < rows_; ++row)
    for (size_t i = 0; i < time; ++i) positions.push_back(static_cast<int64_t>(i));
  const float* hidden = run(prefill_, static_cast<int64_t>(time), embeds.data(), positions, lengths, cancel, true);
  lengths_ = lengths;
  last_.clear();
  for (size_t row = 0; row < rows_; ++row) {
    const float* at = hidden + (row * time + static_cast<size_t>(lengths[row]) - 1) * width_;
    last_.insert(last_.end(), at, at + width_);
  }
  return last_.data();
}

const float* CachedDecoder::step(const std::vector<float>& embeds, const Cancel& cancel) {
  const std::vector<int64_t> positions = lengths_;
  for (int64_t& each : lengths_) ++each;
  return run(step_, 1, embeds.data(), positions, lengths_, cancel);
}

const float* CachedDecoder::look_ahead(const std::vector<float>& embeds, const std::vector<int64_t>& positions,
                                       const Cancel& cancel) {
  const int64_t time = static_cast<int64_t>(positions.size());
  return run(prefill_, time, embeds.data(), positions, {lengths_[0] + time}, cancel);
}

}  // namespace je
