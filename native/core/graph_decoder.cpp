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
  std::vector<Ort::Value> past;     // inputs of the next run, also its outputs if `present` is empty
  std::vector<Ort::Value> present;  // outputs of the first run on a device with its own memory
};

class GraphDecoder : public DecoderEngine {
 public:
  GraphDecoder(const Bundle& bundle, const std::string& name, const GraphOptions& options)
      : sizes_(bundle.manifest.sizes),
        type_(type_of(bundle.manifest.cache.dtype)),
        number_bytes_(type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT     ? 4
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
    made->is_on_device = is_on_device_;
    made->rows = static_cast<size_t>(rows);
    made->heads = static_cast<size_t>(sizes_.num_kv_heads);
    made->length = static_cast<size_t>(length);
    made->item_bytes = static_cast<size_t>(sizes_.head_dim) * number_bytes_;
    made->memory = allocate_caches(sizes_.num_layers, made->rows * made->heads * made->length * made->item_bytes);
    add_rows(*made, 0, made->rows, made->past);
    if (is_on_device_)
      for (size_t i = 0; i < made->memory.size(); ++i)
        made->present.push_back(graph_.device_value(shape_of(*made, made->rows), type_));
    return made;
  }

  // GroupQueryAttention takes several positions on a filled cache for one row only: then run one row after the other.
  void run(Caches& caches, const DecoderCall& call, const Cancel& cancel) const override {
    auto& kv = static_cast<GraphCaches&>(caches);
    const bool row_by_row = is_for_cpu_ && call.goes_on && call.time > 1 && call.rows > 1;
    if (!row_by_row && static_cast<size_t>(call.rows) == kv.rows) return run_rows(kv, call, cancel);
    const int64_t at_once = row_by_row ? 1 : call.rows;
    for (int64_t row = 0; row < call.rows; row += at_once) {
      const int64_t at = row * call.time;
      GraphCaches part;
      add_rows(kv, static_cast<size_t>(row), static_cast<size_t>(at_once), part.past);
      DecoderCall of_part = call;
      of_part.rows = at_once;
      of_part.embeds += at * sizes_.hidden_size;
      of_part.positions += at;
      of_part.lengths += row;
      of_part.hidden += at * sizes_.hidden_size;
      run_rows(part, of_part, cancel);
    }
  }

 private:
  std::vector<int64_t> shape_of(const Caches& caches, size_t rows) const {
    return {static_cast<int64_t>(rows), sizes_.num_kv_heads, static_cast<int64_t>(caches.length), sizes_.head_dim};
  }

  // Append values that share the memory of some rows.
  void add_rows(const Caches& caches, size_t first, size_t count, std::vector<Ort::Value>& to) const {
    const size_t start = first * caches.heads * caches.length * caches.item_bytes;
    for (const auto& each : caches.memory)
      to.push_back(value_of({"", type_, shape_of(caches, count), static_cast<char*>(each.get()) + start}));
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
  size_t number_bytes_;
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
