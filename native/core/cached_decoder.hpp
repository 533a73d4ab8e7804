// The cached decoder: prefill, then one or several positions at a time. It knows no text, file, clock or event. Mirrors
// runtime/cached_decoder.py. Shapes: R rows, T positions, D width.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "decoder_engine.hpp"
#include "kept.hpp"

namespace je {

// A decoder with its own KV caches. One thread at a time. Results are valid until the next call.
class CachedDecoder {
 public:
  // step: the engine of what follows the prompts. prefill: the engine of these. width: D. rows: R. length: positions of
  // the caches. Throws Error JE_E_MEMORY.
  CachedDecoder(const DecoderEngine& step, const DecoderEngine& prefill, int64_t width, int64_t rows, int64_t length);

  // Compute the prompts of the first U rows. Positions that were restored are not computed again. embeds (U, T, D):
  // each row is padded on the right after its length. lengths (U). Return the hidden states (U, D) of their last
  // positions.
  const float* prefill(const std::vector<float>& embeds, const std::vector<int64_t>& lengths, const Cancel& cancel);

  // Add one position per row, embeds (R, D). Return its hidden states (R, D).
  const float* step(const std::vector<float>& embeds, const Cancel& cancel);

  // Return the hidden states (U, T, D) of more positions of the first U rows (fewer than R only on the host). They see
  // what came before and each other, causally. They are not kept, unless `keep` says so: the next call overwrites them.
  // embeds (U, T, D): T is at most room(). positions (U, T): they may leave a gap; empty: they follow what came before.
  const float* look_ahead(const std::vector<float>& embeds, size_t rows, std::vector<int64_t> positions,
                          const Cancel& cancel);

  // Keep the first positions of the last look_ahead, of each of its rows so many.
  void keep(const std::vector<int64_t>& counts);

  // Return the caches, for a loop on a device that goes on after the prompts.
  Caches& caches() { return *caches_; }

  // Return true if the caches can be copied here, false if they lie on a device.
  bool is_on_host() const { return !caches_->is_on_device; }

  // Return the bytes of a row's keys and values.
  size_t num_saved_bytes(size_t row) const {
    return caches_->memory.size() * caches_->heads * static_cast<size_t>(lengths_[row]) * caches_->item_bytes;
  }

  // Give a row the keys and values of the first `count` positions of a context.
  void restore(size_t row, const Context& context, size_t count);

  // Return a row's keys and values. key: the row's positions, as far as they are known.
  Context saved(size_t row, Key key) const;

  // Give each row the keys and values of another, as far as they are known. sources (R): none comes after the row that
  // it is copied to.
  void repeat(const std::vector<size_t>& sources);

  // Return how many positions the longest row has left.
  int64_t room() const { return length_ - *std::max_element(lengths_.begin(), lengths_.end()); }

 private:
  const float* run(const DecoderEngine& engine, DecoderCall call, const Cancel& cancel);

  const DecoderEngine &step_, &prefill_;
  size_t width_, rows_;
  int64_t length_;
  std::unique_ptr<Caches> caches_;
  std::vector<int64_t> lengths_;
  std::vector<float> hidden_, last_;
};

}  // namespace je
