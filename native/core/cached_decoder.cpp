#include "cached_decoder.hpp"

#include <cstring>

#include "error.hpp"
#include "table.hpp"

namespace je {
namespace {

// Heads that round what they are given to 8 bits would hide it.
const float* finite(const float* hidden, size_t count) {
  if (are_finite(hidden, count)) return hidden;
  fail(JE_E_BUNDLE, "decoder: computes what is no finite number; export the bundle again");
}

}  // namespace

CachedDecoder::CachedDecoder(const DecoderEngine& step, const DecoderEngine& prefill, int64_t width, int64_t rows,
                             int64_t length)
    : step_(step),
      prefill_(prefill),
      width_(static_cast<size_t>(width)),
      rows_(static_cast<size_t>(rows)),
      length_(length),
      caches_(step.caches(rows, length)),
      lengths_(rows_) {}

const float* CachedDecoder::run(const DecoderEngine& engine, DecoderCall call, const Cancel& cancel) {
  hidden_.resize(static_cast<size_t>(call.rows * call.time) * width_);
  call.hidden = hidden_.data();
  engine.run(*caches_, call, cancel);
  return hidden_.data();
}

const float* CachedDecoder::prefill(const std::vector<float>& embeds, const std::vector<int64_t>& lengths,
                                    const Cancel& cancel) {
  const size_t rows = lengths.size(), longest = embeds.size() / (rows * width_);
  int64_t time = 0;  // of each row its last positions, as many as any row needs
  for (size_t row = 0; row < rows; ++row) time = std::max(time, lengths[row] - lengths_[row]);
  std::vector<float> given;
  std::vector<int64_t> positions;
  for (size_t row = 0; row < rows; ++row) {
    const int64_t first = std::max<int64_t>(lengths[row] - time, 0);
    for (int64_t i = first; i < first + time; ++i) {
      positions.push_back(i);
      const size_t at = row * longest + std::min(static_cast<size_t>(i), longest - 1);
      const auto from = embeds.begin() + static_cast<std::ptrdiff_t>(at * width_);
      given.insert(given.end(), from, from + static_cast<std::ptrdiff_t>(width_));
    }
  }
  DecoderCall call{static_cast<int64_t>(rows), time, given.data(), positions.data(), lengths.data()};
  call.last_only = true;
  call.goes_on = std::any_of(lengths_.begin(), lengths_.end(), [](int64_t each) { return each > 0; });
  const float* hidden = run(prefill_, call, cancel);
  last_.clear();
  for (size_t row = 0; row < rows; ++row) {
    const size_t valid = static_cast<size_t>(std::min(lengths[row], time));
    const float* at = hidden + (row * static_cast<size_t>(time) + valid - 1) * width_;
    last_.insert(last_.end(), at, at + width_);
    lengths_[row] = lengths[row];
  }
  return finite(last_.data(), last_.size());
}

void CachedDecoder::restore(size_t row, const Context& context, size_t count) {
  const Caches& to = *caches_;
  const size_t known = context.key.size() * to.item_bytes;  // bytes of a head
  for (size_t i = 0; i < to.memory.size(); ++i)
    for (size_t head = 0; head < to.heads; ++head)
      std::memcpy(static_cast<char*>(to.memory[i].get()) + (row * to.heads + head) * to.length * to.item_bytes,
                  context.caches[i].data() + head * known, count * to.item_bytes);
  lengths_[row] = static_cast<int64_t>(count);
}

Context CachedDecoder::saved(size_t row, Key key) const {
  const Caches& from = *caches_;
  key.resize(std::min(key.size(), static_cast<size_t>(lengths_[row])));
  const size_t count = key.size() * from.item_bytes;  // bytes of a head
  Context context{std::move(key), {}};
  for (const auto& each : from.memory) {
    std::vector<char>& to = context.caches.emplace_back();
    for (size_t head = 0; head < from.heads; ++head) {
      const char* at = static_cast<const char*>(each.get()) + (row * from.heads + head) * from.length * from.item_bytes;
      to.insert(to.end(), at, at + count);
    }
  }
  return context;
}

void CachedDecoder::repeat(const std::vector<size_t>& sources) {
  const size_t head_bytes = caches_->length * caches_->item_bytes, row_bytes = caches_->heads * head_bytes;
  for (size_t row = rows_; row-- > 0;) {
    if (sources[row] == row) continue;
    lengths_[row] = lengths_[sources[row]];
    const size_t count = static_cast<size_t>(lengths_[row]) * caches_->item_bytes;
    for (const auto& each : caches_->memory)
      for (size_t head = 0; head < caches_->heads; ++head) {
        char* start = static_cast<char*>(each.get()) + head * head_bytes;
        std::memcpy(start + row * row_bytes, start + sources[row] * row_bytes, count);
      }
  }
}

const float* CachedDecoder::step(const std::vector<float>& embeds, const Cancel& cancel) {
  const float* hidden = look_ahead(embeds, rows_, {}, cancel);
  keep(std::vector<int64_t>(rows_, 1));
  return hidden;
}

const float* CachedDecoder::look_ahead(const std::vector<float>& embeds, size_t rows, std::vector<int64_t> positions,
                                       const Cancel& cancel) {
  const int64_t time = static_cast<int64_t>(embeds.size() / (rows * width_));
  std::vector<int64_t> lengths(lengths_.begin(), lengths_.begin() + static_cast<std::ptrdiff_t>(rows));
  for (int64_t& each : lengths) each += time;
  if (positions.empty())
    for (const int64_t end : lengths)
      for (int64_t i = 0; i < time; ++i) positions.push_back(end - time + i);
  DecoderCall call{static_cast<int64_t>(rows), time, embeds.data(), positions.data(), lengths.data()};
  call.goes_on = true;
  return finite(run(step_, call, cancel), embeds.size());
}

void CachedDecoder::keep(const std::vector<int64_t>& counts) {
  for (size_t row = 0; row < counts.size(); ++row) lengths_[row] += counts[row];
}

}  // namespace je
