// The cached decoder: prefill, then one position at a time. It knows no text, file, clock or event. Mirrors
// CachedDecoder of runtime/decode.py. Shapes: R rows, T positions, D width.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "decoder_engine.hpp"

namespace je {

// A decoder with its own KV caches. One thread at a time. Results are valid until the next call.
class CachedDecoder {
 public:
  // step: the engine of decode steps. prefill: the engine of everything else. width: D. rows: R. length: positions of
  // the caches. Throws Error JE_E_MEMORY.
  CachedDecoder(const DecoderEngine& step, const DecoderEngine& prefill, int64_t width, int64_t rows, int64_t length);

  // Start over with prompts. embeds (R, T, D): each row is padded on the right after its length. lengths (R). Return
  // the hidden states (R, D) of the rows' last positions.
  const float* prefill(const std::vector<float>& embeds, const std::vector<int64_t>& lengths, const Cancel& cancel);

  // Add one position per row, embeds (R, D). Return its hidden states (R, D).
  const float* step(const std::vector<float>& embeds, const Cancel& cancel);

  // Return the hidden states (1, T, D) of more positions after those of a single row. The positions are not kept: the
  // next call overwrites them. embeds (1, T, D), positions (T).
  const float* look_ahead(const std::vector<float>& embeds, const std::vector<int64_t>& positions,
                          const Cancel& cancel);

 private:
  const float* run(const DecoderEngine& engine, int64_t time, const float* embeds,
                   const std::vector<int64_t>& positions, const std::vector<int64_t>& lengths, const Cancel& cancel,
                   bool last_only = false);

  const DecoderEngine &step_, &prefill_;
  size_t width_, rows_;
  std::unique_ptr<Caches> caches_;
  std::vector<int64_t> lengths_;
  std::vector<float> hidden_, last_;
};

}  // namespace je
