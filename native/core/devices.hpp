// Where a bundle can run: the CPU, or another execution provider of ONNX Runtime. Mirrors runtime/devices.py.
#pragma once

#include <string>
#include <vector>

#include "manifest.hpp"

namespace je {

// A device. kind: "cpu", "cuda", ... ordinal: which of several devices of this kind, from 0.
struct Device {
  std::string kind = "cpu";
  int ordinal = 0;

  bool is_cpu() const { return kind == "cpu"; }
  // Return true if the device has its own memory, where keys and values then lie.
  bool has_memory() const;
  // Return ONNX Runtime's name of the execution provider.
  const char* provider() const;
  // Return the name: "cpu" or "cuda:1".
  std::string text() const { return is_cpu() ? kind : kind + ":" + std::to_string(ordinal); }
};

// Return the device of a name: "cpu", "cuda:1", ..., or "auto", the first device that can run the bundle. Throws Error
// JE_E_ARGUMENT if the name is unknown, JE_E_DEVICE if the device is missing or cannot run the bundle.
Device choose_device(const Manifest& manifest, const std::string& wanted);

}  // namespace je
