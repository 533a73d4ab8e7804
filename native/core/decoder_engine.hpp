// The decoder behind one contract (docs/design.md): ONNX Runtime's graph, or our own code.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cancel.hpp"
#include "manifest.hpp"

namespace je {

// Keys and values of some rows; written in place.
class Caches {
 public:
  virtual ~Caches() = default;
};

// embeds (R, T, D), positions (R, T) and lengths (R) to final-normed hidden (R, T, D).
struct DecoderCall {
  int64_t rows, time;
  const float* embeds;
  const int64_t *positions, *lengths;
  float* hidden;
};

class DecoderEngine {
 public:
  virtual ~DecoderEngine() = default;

  // For so many rows and positions, cleared. Throws Error JE_E_MEMORY.
  virtual std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const = 0;

  // Any number of threads at once, each with caches of its own; these may be of another engine of the bundle.
  virtual void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const = 0;
};

// hidden (R, D) to logits (R, V). Any number of threads at once.
using Head = std::function<void(const float* hidden, int64_t rows, float* logits, const Cancel& cancel)>;

}  // namespace je
