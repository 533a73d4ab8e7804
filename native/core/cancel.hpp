// How another thread asks a job to end.
#pragma once

#include "error.hpp"
#include "onnxruntime.hpp"

namespace je {

// A flag that stops a job's work. ask() and is_asked() may be called on any thread.
class Cancel {
 public:
  // Ask the job to end; a running call of ONNX Runtime ends as well.
  void ask() {
    __atomic_store_n(&is_asked_, 1, __ATOMIC_RELAXED);
    options_.SetTerminate();
  }

  // Return true once ask() was called.
  bool is_asked() const { return __atomic_load_n(&is_asked_, __ATOMIC_RELAXED) != 0; }

  // Throw Cancelled once ask() was called.
  void check() const {
    if (is_asked()) throw Cancelled();
  }

  // Return the flag, for the CPU kernels (je_decoder_stop_by).
  const int* flag() const { return &is_asked_; }

  // Return the options that ONNX Runtime runs with.
  const Ort::RunOptions& options() const { return options_; }

 private:
  int is_asked_ = 0;
  Ort::RunOptions options_;
};

}  // namespace je
