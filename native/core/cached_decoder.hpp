// Prefill, then one position at a time. Knows no text, file, clock or event. Equal to runtime/decode.py.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "decoder_engine.hpp"

namespace je {

// A decoder with caches of its own.
class CachedDecoder {
 public:
  // step, prefill: the engines for steps, and for everything else. Throws Error JE_E_MEMORY.
  CachedDecoder(const DecoderEngine& step, const DecoderEngine& prefill, int64_t width, int64_t rows, int64_t length);

  // Start over with prompts (R, T, D), each padded on the right from its length on; the hidden states (R, D) of their
  // last positions.
  const float* prefill(const std::vector<float>& embeds, const std::vector<int64_t>& lengths, const Cancel& cancel);

  // One more position (R, D); its hidden state (R, D).
  const float* step(const std::vector<float>& embeds, const Cancel& cancel);

  // Hidden states (1, T, D) of several more positions after one row's; they are not kept.
  const float* look_ahead(const std::vector<float>& embeds, const std::vector<int64_t>& positions,
                          const Cancel& cancel);

 private:
  const float* run(const DecoderEngine& engine, int64_t time, const float* embeds,
                   const std::vector<int64_t>& positions, const std::vector<int64_t>& lengths, const Cancel& cancel);

  const DecoderEngine &step_, &prefill_;
  size_t width_, rows_;
  std::unique_ptr<Caches> caches_;
  std::vector<int64_t> lengths_;
  std::vector<float> hidden_, last_;
};

}  // namespace je
