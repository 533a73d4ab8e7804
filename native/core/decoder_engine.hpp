// The decoder's contract (docs/design.md), which a graph of ONNX Runtime and the CPU kernels both fulfil.
// Shapes: R rows, T new positions, D width, V codes or tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cancel.hpp"
#include "kv_cache.hpp"
#include "manifest.hpp"

namespace je {

// KV caches of some rows. A run updates them in place. memory: on the host, (rows, heads, length) items of item_bytes
// each, in the order of cache_names. is_on_device: a run moves them there.
struct Caches {
  virtual ~Caches() = default;

  CacheMemory memory;
  size_t rows = 0, heads = 0, length = 0, item_bytes = 0;
  bool is_on_device = false;
};

// The arguments of a run. rows: R, the first ones of the caches. time: T. embeds (R, T, D), positions (R, T), lengths
// (R): valid positions of each row after the run. hidden (R, T, D): the result, after the last norm. last_only: only
// the states of each row's last valid position are needed; the others may be left as they are. goes_on: the caches hold
// positions before these.
struct DecoderCall {
  int64_t rows, time;
  const float* embeds;
  const int64_t *positions, *lengths;
  float* hidden = nullptr;
  bool last_only = false, goes_on = false;
};

// A decoder that is open for execution.
class DecoderEngine {
 public:
  virtual ~DecoderEngine() = default;

  // Return caches for `rows` rows of `length` positions, filled with zeros. Throws Error JE_E_MEMORY.
  virtual std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const = 0;

  // Compute hidden states and update the caches. Any number of threads at once, each with its own caches. The caches
  // may come from another decoder engine of the same bundle. Throws Error, Cancelled.
  virtual void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const = 0;
};

// An output head: a function from hidden (R, D) to logits (R, V). Any number of threads at once. Throws Error,
// Cancelled.
using Head = std::function<void(const float* hidden, int64_t rows, float* logits, const Cancel& cancel)>;

}  // namespace je
