#include "graph_decoder.hpp"

#include <cstdlib>
#include <map>

#include "error.hpp"
#include "kv_cache.hpp"

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
  std::vector<int64_t> shape;       // of each
  CacheMemory memory;               // of `past`, on the host
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
        is_for_cpu_(bundle.is_decoder_for_cpu()),
        graph_(bundle.path(bundle.component(name)), bundle.component(name), options) {
    for (const std::string& name : past_) inputs_.push_back(name.c_str());
    for (const std::string& name : present_) outputs_.push_back(name.c_str());
  }

  std::unique_ptr<Caches> caches(int64_t rows, int64_t length) const override {
    auto made = std::make_unique<GraphCaches>();
    const std::vector<int64_t> shape{rows, sizes_.num_kv_heads, length, sizes_.head_dim};
    made->shape = shape;
    const size_t numbers = static_cast<size_t>(rows * sizes_.num_kv_heads * length * sizes_.head_dim);
    made->memory = allocate_caches(sizes_.num_layers, numbers * item_bytes_);
    for (const auto& each : made->memory) {
      made->past.push_back(value_of({"", type_, shape, each.get()}));
      if (is_on_device_) made->present.push_back(graph_.device_value(shape, type_));
    }
    return made;
  }

  // GroupQueryAttention takes several positions on a filled cache for one row only: then run one row after the other.
  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override {
    auto& kv = static_cast<GraphCaches&>(caches);
    if (!is_for_cpu_ || !call.goes_on || call.time == 1 || call.rows == 1) return run_rows(kv, call, cancel);
    for (int64_t row = 0; row < call.rows; ++row) {
      const int64_t at = row * call.time;
      GraphCaches one = row_of(kv, row);
      run_rows(one,
               {1, call.time, call.embeds + at * sizes_.hidden_size, call.positions + at, call.lengths + row,
                call.hidden + at * sizes_.hidden_size},
               cancel);
    }
  }

 private:
  // Return a row of caches on the host. It shares their memory.
  GraphCaches row_of(const GraphCaches& all, int64_t row) const {
    std::vector<int64_t> shape = all.shape;
    shape[0] = 1;
    const size_t bytes = static_cast<size_t>(shape[1] * shape[2] * shape[3]) * item_bytes_;
    GraphCaches one;
    for (const auto& each : all.memory)
      one.past.push_back(
          value_of({"", type_, shape, static_cast<char*>(each.get()) + static_cast<size_t>(row) * bytes}));
    return one;
  }

  void run_rows(GraphCaches& kv, const DecoderCall& call, const Cancel& cancel) const {
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

  Sizes sizes_;
  ONNXTensorElementDataType type_;
  size_t item_bytes_;
  bool is_on_device_, is_for_cpu_;
  Graph graph_;
  std::vector<std::string> past_ = cache_names(kPast, sizes_.num_layers);
  std::vector<std::string> present_ = cache_names(kPresent, sizes_.num_layers);
  std::vector<const char*> inputs_{"embeds", "positions", "lengths"}, outputs_{"hidden"};
};

}  // namespace

std::unique_ptr<DecoderEngine> graph_decoder(const Bundle& bundle, const std::string& component,
                                             const GraphOptions& options) {
  return std::make_unique<GraphDecoder>(bundle, component, options);
}

}  // namespace je
