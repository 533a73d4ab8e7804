// The weights of a component that the CPU kernels run. Mirrors runtime/backends/cpu_library.py and cpu_lookup.py.
#pragma once

#include <exception>
#include <map>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "files.hpp"
#include "tiles.hpp"

extern "C" {
#include "../cpu/decoder.h"
#include "../cpu/encoder.h"
#include "../cpu/head.h"
#include "../cpu/image_decoder.h"
#include "../cpu/weights.h"
}

namespace je {

inline constexpr int kWideBits = 8;  // of all weights but the decoder's

// The arrays of a component's data file, which is mapped. Functions throw Error JE_E_BUNDLE if what they are to find is
// missing, of another shape, or not inside the file.
class Weights {
 public:
  Weights(const Bundle& bundle, const ComponentInfo& component);

  // Return the address of numbers of this shape.
  const float* floats(const std::string& name, const std::vector<int64_t>& shape) const;

  // Return the weights of a matmul, and its bias if it has one. inputs, outputs 0: as many as there are.
  je_matrix matrix(const std::string& layer, int bits, int64_t inputs = 0, int64_t outputs = 0) const;

  // Return how many numbers a tensor has; 0 if there is none of this name.
  int64_t count(const std::string& name) const;

  // Return the address of `count` numbers of any shape.
  const float* numbers(const std::string& name, int64_t count) const;

  // Return a number that the component has.
  double constant(const std::string& name) const;

  // Return the layers whose weights are in tiles, in the file's order.
  std::vector<std::string> chain() const;

  // Throw unless the sizes that the weights have fit together.
  void require(bool fits) const;

 private:
  std::string path_;
  const ComponentInfo& component_;
  Mapped file_;
};

// Functions that look weights up for C code, and the first error that they met.
class Lookup {
 public:
  explicit Lookup(const Weights& weights);

  const je_weights* get() const { return &functions_; }

  // Throw Error if `opened`, what opening a component returned, is not JE_OPENED: what looking up threw, if it did.
  void check(int opened) const;

 private:
  const Weights& weights_;
  je_weights functions_;
  std::exception_ptr error_;
};

}  // namespace je
