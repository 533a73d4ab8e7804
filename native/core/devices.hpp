// Where a bundle can run: the CPU, or one of ONNX Runtime's other providers by name. Equal to runtime/devices.py.
#pragma once

#include <string>
#include <vector>

#include "manifest.hpp"

namespace je {

struct Device {
  std::string kind = "cpu";
  int ordinal = 0;

  bool is_cpu() const { return kind == "cpu"; }
  // Whether keys and values lie in memory of its own.
  bool has_memory() const;
  const char* provider() const;  // ONNX Runtime's name of it
  std::string text() const { return is_cpu() ? kind : kind + ":" + std::to_string(ordinal); }
};

// "cuda:1" and the like, or "auto": the first that a bundle can run on. Throws Error JE_E_ARGUMENT for a name that
// there is not, JE_E_DEVICE for one that cannot be.
Device choose_device(const Manifest& manifest, const std::string& wanted);

}  // namespace je
