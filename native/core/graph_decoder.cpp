#include "graph_decoder.hpp"

#include <cstdlib>
#include <map>

#include "error.hpp"

namespace je {
namespace {

ONNXTensorElementDataType type_of(const std::string& dtype) {
  static const std::map<std::string, ONNXTensorElementDataType> kTypes = {
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}};
  const auto found = kTypes.find(dtype);
  if (found == kTypes.end())
    fail(JE_E_BUNDLE, "decoder: keys and values in ", dtype, " are not known here; export it again");
  return found->second;
}

// The KV caches of a graph. On a device, the first run reads zeros from the host and writes to the device.
struct GraphCaches : Caches {
  std::vector<std::unique_ptr<void, void (*)(void*)>> memory;  // of `past`, on the host
  std::vector<Ort::Value> past;     // inputs of the next run, also its outputs if `present` is empty
  std::vector<Ort::Value> present;  // outputs of the first run on a device with its own memory
};

class GraphDecoder : public DecoderEngine {
 public:
  GraphDecoder(const Bundle& bundle, const std::string& name, const GraphOptions& options)
      : sizes_(bundle.manifest.sizes),
        type_(type_of(bundle.manifest.cache.dtype)),
        item_bytes_(type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT     ? 4
                    : type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2
                                                                     : 1),
        is_on_device_(options.device.has_memory()),
        graph_(bundle.path(bundle.component(name)), bundle.component(name), options) {
    for (int64_t i = 0; i < sizes_.num_layers; ++i)
      for (const char* kind : {"k", "v"}) {
        names_.push_back(join("past_", kind, "_", i));
        names_.push_back(join("present_", kind, "_", i));
      }
    inputs_ = {"embeds", "positions", "lengths"};
    outputs_ = {"hidden"};
    for (size_t i = 0; i < names_.size(); ++i) (i % 2 ? outputs_ : inputs_).push_back(names_[i].c_str());
  }

  std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const override {
    auto made = std::make_unique<GraphCaches>();
    const std::vector<int64_t> shape{rows, sizes_.num_kv_heads, length, sizes_.head_dim};
    const size_t numbers = static_cast<size_t>(rows * sizes_.num_kv_heads * length * sizes_.head_dim);
    for (int64_t i = 0; i < 2 * sizes_.num_layers; ++i) {
      made->memory.emplace_back(std::calloc(numbers, item_bytes_), std::free);
      if (!made->memory.back()) fail(JE_E_MEMORY, "no memory for keys and values; draw fewer images at once");
      made->past.push_back(value_of({"", type_, shape, made->memory.back().get()}));
      if (is_on_device_) made->present.push_back(graph_.device_value(shape, type_));
    }
    return made;
  }

  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override {
    auto& kv = static_cast<GraphCaches&>(caches);
    const int64_t width = sizes_.hidden_size;
    const std::vector<int64_t> shape{call.rows, call.time, width};
    const Ort::Value embeds = value_of(floats("", shape, call.embeds));
    const Ort::Value positions = value_of(integers("", {call.rows, call.time}, call.positions));
    const Ort::Value lengths = value_of(integers("", {call.rows}, call.lengths));
    Ort::Value hidden = value_of(floats("", shape, call.hidden));
    std::vector<const OrtValue*> given{embeds, positions, lengths};
    std::vector<OrtValue*> made{hidden};
    for (const Ort::Value& each : kv.past) given.push_back(each);
    for (Ort::Value& each : kv.present.empty() ? kv.past : kv.present) made.push_back(each);
    graph_.run_values(inputs_, given, outputs_, std::move(made), cancel);
    if (kv.present.empty()) return;
    kv.past = std::move(kv.present);  // later runs update the caches in place, on the device
    kv.present.clear();
    kv.memory.clear();
  }

 private:
  Sizes sizes_;
  ONNXTensorElementDataType type_;
  size_t item_bytes_;
  bool is_on_device_;
  Graph graph_;
  std::vector<std::string> names_;
  std::vector<const char*> inputs_, outputs_;
};

}  // namespace

std::unique_ptr<DecoderEngine> graph_decoder(const Bundle& bundle, const std::string& component,
                                             const GraphOptions& options) {
  return std::make_unique<GraphDecoder>(bundle, component, options);
}

}  // namespace je
