#include "cached_decoder.hpp"

namespace je {

CachedDecoder::CachedDecoder(const DecoderEngine& step, const DecoderEngine& prefill, int64_t width, int64_t rows,
                             int64_t length)
    : step_(step),
      prefill_(prefill),
      width_(static_cast<size_t>(width)),
      rows_(static_cast<size_t>(rows)),
      length_(length),
      caches_(step.caches(rows, length)) {}

const float* CachedDecoder::run(const DecoderEngine& engine, DecoderCall call, const Cancel& cancel) {
  hidden_.resize(rows_ * static_cast<size_t>(call.time) * width_);
  call.hidden = hidden_.data();
  engine.run(*caches_, call, cancel);
  return hidden_.data();
}

const float* CachedDecoder::prefill(const std::vector<float>& embeds, const std::vector<int64_t>& lengths,
                                    const Cancel& cancel) {
  const size_t time = embeds.size() / (rows_ * width_);
  std::vector<int64_t> positions;
  for (size_t row = 0; row < rows_; ++row)
    for (size_t i = 0; i < time; ++i) positions.push_back(static_cast<int64_t>(i));
  DecoderCall call{static_cast<int64_t>(rows_), static_cast<int64_t>(time), embeds.data(), positions.data(),
                   lengths.data()};
  call.last_only = true;
  const float* hidden = run(prefill_, call, cancel);
  lengths_ = lengths;
  last_.clear();
  for (size_t row = 0; row < rows_; ++row) {
    const float* at = hidden + (row * time + static_cast<size_t>(lengths[row]) - 1) * width_;
    last_.insert(last_.end(), at, at + width_);
  }
  return last_.data();
}

const float* CachedDecoder::step(const std::vector<float>& embeds, const Cancel& cancel) {
  const float* hidden = look_ahead(embeds, {}, cancel);
  keep(std::vector<int64_t>(rows_, 1));
  return hidden;
}

const float* CachedDecoder::look_ahead(const std::vector<float>& embeds, std::vector<int64_t> positions,
                                       const Cancel& cancel) {
  const int64_t time = static_cast<int64_t>(embeds.size() / (rows_ * width_));
  std::vector<int64_t> lengths = lengths_;
  for (int64_t& each : lengths) each += time;
  if (positions.empty())
    for (const int64_t start : lengths_)
      for (int64_t i = 0; i < time; ++i) positions.push_back(start + i);
  DecoderCall call{static_cast<int64_t>(rows_), time, embeds.data(), positions.data(), lengths.data()};
  call.goes_on = true;
  return run(step_, call, cancel);
}

void CachedDecoder::keep(const std::vector<int64_t>& counts) {
  for (size_t row = 0; row < rows_; ++row) lengths_[row] += counts[row];
}

}  // namespace je
