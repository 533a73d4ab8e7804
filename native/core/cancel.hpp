// What a job is told by another thread: to end.
#pragma once

#include "error.hpp"
#include "onnxruntime.hpp"

namespace je {

class Cancel {
 public:
  void ask() {
    __atomic_store_n(&is_asked_, 1, __ATOMIC_RELAXED);
    options_.SetTerminate();
  }
  bool is_asked() const { return __atomic_load_n(&is_asked_, __ATOMIC_RELAXED) != 0; }
  void check() const {
    if (is_asked()) throw Cancelled();
  }

  const int* flag() const { return &is_asked_; }  // for code in C
  const Ort::RunOptions& options() const { return options_; }

 private:
  int is_asked_ = 0;
  Ort::RunOptions options_;
};

}  // namespace je
