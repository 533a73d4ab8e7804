// ONNX Runtime, opened at run time: dlopen, then the API of version 1.21 (docs/c-api.md).
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <mutex>
#include <string>
#include <vector>

#include "devices.hpp"
#include "janus_edge.h"
#include "manifest.hpp"

namespace je {

class Cancel;

// Load the library: this file, or for "" one beside our own library, or the system's. Once a process; again it only
// checks that no other file is meant. Throws Error JE_E_RUNTIME.
void load_onnxruntime(const std::string& file);

std::string onnxruntime_version();

// What a session is opened with.
struct GraphOptions {
  int num_threads = 0;  // 0: the library's choice
  Device device;
  bool upcasts_on_use = false;  // halves stay halves until their product
  const je_options* log = nullptr;
};

// An input or output where it lies.
struct Tensor {
  const char* name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
  const void* data;
};

inline Tensor floats(const char* name, std::vector<int64_t> shape, const float* data) {
  return {name, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, std::move(shape), data};
}

inline Tensor integers(const char* name, std::vector<int64_t> shape, const int64_t* data) {
  return {name, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, std::move(shape), data};
}

// A component's graph. Any number of threads may run it at once.
class Graph {
 public:
  // Throws Error JE_E_BUNDLE if ONNX Runtime refuses it, or it has other inputs or outputs than the manifest says,
  // JE_E_DEVICE if the device's provider refuses it, JE_E_MEMORY.
  Graph(std::string path, const ComponentInfo& component, const GraphOptions& options);

  // Outputs are written where they lie. Throws Error JE_E_RUNTIME, JE_E_MEMORY, JE_E_BUNDLE if one holds what is no
  // finite number: what followed would be noise. And Cancelled.
  void run(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs, const Cancel& cancel) const;

  // The same with values of the caller's; names and values in pairs.
  void run_values(const std::vector<const char*>& input_names, const std::vector<const OrtValue*>& inputs,
                  const std::vector<const char*>& output_names, std::vector<OrtValue*> outputs,
                  const Cancel& cancel) const;

  // Memory on the device, not cleared, which must go before the graph does.
  Ort::Value device_value(const std::vector<int64_t>& shape, ONNXTensorElementDataType type) const;

 private:
  std::string path_;
  Device device_;
  mutable Ort::Session session_{nullptr};          // whose Run is safe for threads, but not const
  mutable Ort::Allocator device_memory_{nullptr};  // which values keep a pointer to
  mutable std::once_flag has_device_memory_;
};

// A tensor that lies where it is given.
Ort::Value value_of(const Tensor& tensor);

}  // namespace je
