// ONNX Runtime, opened at run time by dlopen; its API of version 1.21 is used (docs/c-api.md). Mirrors
// runtime/backends/onnxruntime.py.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "devices.hpp"
#include "janus_edge.h"
#include "manifest.hpp"
#include "tiles.hpp"

namespace je {

class Cancel;

// Load ONNX Runtime. file: its library; "": the one beside libjanus_edge, or the system's. The first call in a process
// loads it; later calls only check that they name the same file. Any thread. Throws Error JE_E_RUNTIME.
void load_onnxruntime(const std::string& file);

// Return the version of the library that was loaded.
std::string onnxruntime_version();

// How a graph is opened.
struct GraphOptions {
  int num_threads = 0;  // 0: ONNX Runtime chooses
  Device device;
  bool upcasts_on_use = false;      // fp16 weights stay fp16 in memory; each is converted when its matmul runs
  const je_options* log = nullptr;  // where log lines go; must outlive the graph
};

// An input or output in the caller's memory.
struct Tensor {
  const char* name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
  const void* data;
};

// Return a tensor of float32.
inline Tensor floats(const char* name, std::vector<int64_t> shape, const float* data) {
  return {name, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, std::move(shape), data};
}

// Return a tensor of int64.
inline Tensor integers(const char* name, std::vector<int64_t> shape, const int64_t* data) {
  return {name, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, std::move(shape), data};
}

// The open graph of a component. Any number of threads may run it at once.
class Graph {
 public:
  // Open the graph in the file `path`. Throws Error JE_E_BUNDLE if ONNX Runtime refuses it or its inputs and outputs
  // differ from the manifest, JE_E_DEVICE if the device's provider refuses it, JE_E_MEMORY.
  Graph(std::string path, const ComponentInfo& component, const GraphOptions& options);

  // Run the graph; it writes the outputs to their memory. Throws Error JE_E_RUNTIME, JE_E_MEMORY, JE_E_BUNDLE if an
  // output is not finite, as all that follows would be noise; Cancelled.
  void run(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs, const Cancel& cancel) const;

  // Run the graph with values that the caller made. Names and values stand in the same order.
  void run_values(const std::vector<const char*>& input_names, const std::vector<const OrtValue*>& inputs,
                  const std::vector<const char*>& output_names, std::vector<OrtValue*> outputs,
                  const Cancel& cancel) const;

  // Return a value in memory of the device, not initialized. It must be freed before the graph.
  Ort::Value device_value(const std::vector<int64_t>& shape, ONNXTensorElementDataType type) const;

 private:
  // Let the graph's weights be those that are stored in tiles.
  void give_weights(Ort::SessionOptions& to);

  std::string path_;
  Device device_;
  std::vector<GraphWeights> weights_;
  std::vector<Ort::Value> values_;                 // of weights_
  mutable Ort::Session session_{nullptr};          // its Run is safe on several threads, but not const
  mutable Ort::Allocator device_memory_{nullptr};  // values keep a pointer to it
  mutable std::once_flag has_device_memory_;
};

// A component with one input and one output, of one image: vision_encoder, vision_aligner, image_decoder. Any number of
// threads at once. Throws Error, Cancelled.
using Stage = std::function<void(const Tensor& given, const Tensor& made, const Cancel& cancel)>;

// Return a value that uses the tensor's memory.
Ort::Value value_of(const Tensor& tensor);

}  // namespace je
