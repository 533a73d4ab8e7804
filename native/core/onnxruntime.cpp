#include "onnxruntime.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "cancel.hpp"
#include "error.hpp"
#include "graph_ends.hpp"
#include "table.hpp"

namespace je {
namespace {

constexpr uint32_t kApi = 21;   // the API of version 1.21, the oldest that is supported; later versions only add to it
constexpr size_t kShown = 200;  // characters of ONNX Runtime's message that are shown; it can have pages

#ifdef __APPLE__
constexpr const char* kNames[] = {"libonnxruntime.dylib"};
#else
constexpr const char* kNames[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif

// ONNX Runtime's library, once a process.
struct Library {
  std::mutex mutex;
  void* handle = nullptr;
  std::string file, version;
  std::unique_ptr<Ort::Env> environment;
};

Library& library() {
  static Library* const shared = new Library;  // never freed: threads of ONNX Runtime may outlive main()
  return *shared;
}

std::string own_folder() {
  Dl_info found{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &found) == 0 || found.dli_fname == nullptr) return "";
  return std::filesystem::path(found.dli_fname).parent_path();
}

std::vector<std::string> candidates(const std::string& file) {
  if (!file.empty()) return {file};
  std::vector<std::string> found;
  for (const char* name : kNames) found.push_back(std::filesystem::path(own_folder()) / name);
  found.insert(found.end(), std::begin(kNames), std::end(kNames));
  return found;
}

// Return true if the file is the library that is open, by any path or link.
bool is_open_as(const std::string& file, void* handle) {
  void* found = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (found != nullptr) dlclose(found);
  return found == handle;
}

void* open_first(const std::string& file, std::string& opened) {
  std::string reason;  // of the first file that exists, else of the last one
  bool is_there = false;
  for (const std::string& each : candidates(file)) {
    void* handle = dlopen(each.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) {
      opened = each;
      return handle;
    }
    const char* said = dlerror();
    if (said == nullptr || is_there) continue;
    reason = said;
    is_there = reason.rfind(each + ": cannot open shared object file: No such file", 0) != 0;
  }
  fail(JE_E_RUNTIME, "ONNX Runtime cannot be opened: ", reason,
       "; name its library in je_options.onnxruntime, or install one beside libjanus_edge");
}

// Return the end of a message's first line: the reason comes after paths and names of functions.
std::string reason_of(const Ort::Exception& error) {
  const std::string all = error.what(), line = all.substr(0, all.find('\n'));
  return line.size() <= kShown ? line : "..." + line.substr(line.size() - kShown);
}

// Return true if a message says that memory or threads ran out.
bool is_shortage(const std::string& reason) {
  const auto says = [&](const char* words) { return reason.find(words) != std::string::npos; };
  return says("allocate") || says("bad_alloc") || says("pthread_create failed");
}

void ORT_API_CALL drop(void*, OrtLoggingLevel, const char*, const char*, const char*, const char*) {}

void ORT_API_CALL pass_on(void* options, OrtLoggingLevel severity, const char*, const char*, const char* where,
                          const char* message) {
  const auto* to = static_cast<const je_options*>(options);
  const int32_t level = severity >= ORT_LOGGING_LEVEL_ERROR ? JE_LOG_ERROR : JE_LOG_WARNING;
  try {
    to->log(to->log_context, level, join("onnxruntime: ", where, ": ", message).c_str());
  } catch (...) {  // an exception must not pass through ONNX Runtime
  }
}

// Append a provider whose options are in a struct that only the library can make.
template <class Options>
void append_v2(Ort::SessionOptions& to, const Device& device, OrtStatus*(ORT_API_CALL* create)(Options**),
               OrtStatus*(ORT_API_CALL* update)(Options*, const char* const*, const char* const*, size_t),
               OrtStatus*(ORT_API_CALL* append)(OrtSessionOptions*, const Options*),
               void(ORT_API_CALL* release)(Options*)) {
  Options* made = nullptr;
  Ort::ThrowOnError(create(&made));
  const std::unique_ptr<Options, void(ORT_API_CALL*)(Options*)> kept(made, release);
  const std::string id = std::to_string(device.ordinal);
  const char *key = "device_id", *value = id.c_str();
  Ort::ThrowOnError(update(made, &key, &value, 1));
  Ort::ThrowOnError(append(to, made));
}

void append_provider(Ort::SessionOptions& options, const Device& device) {
  const OrtApi& api = Ort::GetApi();
  if (device.kind == "cuda") {
    append_v2(options, device, api.CreateCUDAProviderOptions, api.UpdateCUDAProviderOptions,
              api.SessionOptionsAppendExecutionProvider_CUDA_V2, api.ReleaseCUDAProviderOptions);
  } else if (device.kind == "tensorrt") {
    append_v2(options, device, api.CreateTensorRTProviderOptions, api.UpdateTensorRTProviderOptions,
              api.SessionOptionsAppendExecutionProvider_TensorRT_V2, api.ReleaseTensorRTProviderOptions);
  } else if (device.kind == "openvino") {
    options.AppendExecutionProvider_OpenVINO_V2({});
  } else {
    static const std::map<std::string, std::string> kGeneric = {{"coreml", "CoreML"},
                                                                {"directml", "DML"},
                                                                {"migraphx", "MIGraphX"},
                                                                {"qnn", "QNN"},
                                                                {"tensorrt-rtx", "NvTensorRtRtx"}};
    std::unordered_map<std::string, std::string> settings;
    if (device.kind != "coreml" && device.kind != "qnn") settings["device_id"] = std::to_string(device.ordinal);
    options.AppendExecutionProvider(kGeneric.at(device.kind), settings);
  }
}

Ort::SessionOptions session_options(const GraphOptions& from) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(from.num_threads);
  options.DisableMemPattern();
  // the same settings as in runtime/backends/onnxruntime.py, which gives the reasons
  options.AddConfigEntry("session.intra_op.spin_duration_us", "100");
  options.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "4");
  if (from.upcasts_on_use) options.SetGraphOptimizationLevel(ORT_DISABLE_ALL);
  options.SetLogSeverityLevel(from.log ? ORT_LOGGING_LEVEL_WARNING : ORT_LOGGING_LEVEL_FATAL);
  // without a logging function ONNX Runtime prints
  Ort::ThrowOnError(
      Ort::GetApi().SetUserLoggingFunction(options, from.log ? pass_on : drop, const_cast<je_options*>(from.log)));
  if (!from.device.is_cpu()) append_provider(options, from.device);
  return options;
}

}  // namespace

void load_onnxruntime(const std::string& file) {
  Library& ort = library();
  const std::lock_guard<std::mutex> lock(ort.mutex);
  if (ort.handle != nullptr) {
    if (!file.empty() && !is_open_as(file, ort.handle))
      fail(JE_E_RUNTIME, file, ": this process has opened ", ort.file, " before; name that one");
    return;
  }
  // the library reads it when it starts; the API's switch comes after a first event
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  std::string opened;
  void* handle = open_first(file, opened);
  const auto base_of = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  if (base_of == nullptr) {
    dlclose(handle);
    fail(JE_E_RUNTIME, opened, ": is no ONNX Runtime; name its library in je_options.onnxruntime");
  }
  const OrtApi* api = base_of()->GetApi(kApi);
  const std::string version = base_of()->GetVersionString();
  if (api == nullptr) fail(JE_E_RUNTIME, opened, ": ONNX Runtime ", version, " is too old; 1.", kApi, " is needed");
  Ort::InitApi(api);
  ort.environment = std::make_unique<Ort::Env>(ORT_LOGGING_LEVEL_FATAL, "janus_edge", drop, nullptr);
  ort.environment->DisableTelemetryEvents();
  ort.file = opened;
  ort.version = version;
  ort.handle = handle;
}

std::string onnxruntime_version() { return library().version; }

Ort::Value value_of(const Tensor& tensor) {
  static const Ort::MemoryInfo kHost = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  size_t size = tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64     ? 8
                : tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT   ? 4
                : tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2
                                                                       : 1;
  for (const int64_t each : tensor.shape) size *= static_cast<size_t>(each);
  return Ort::Value::CreateTensor(kHost, const_cast<void*>(tensor.data), size, tensor.shape.data(), tensor.shape.size(),
                                  tensor.type);
}

Graph::Graph(std::string path, const ComponentInfo& component, const GraphOptions& options)
    : path_(std::move(path)), device_(options.device) {
  if (!component.data.file.empty())
    weights_ = graph_weights(component.tensors, path_.substr(0, path_.rfind('/') + 1) + component.data.file);
  try {
    Ort::SessionOptions settings = session_options(options);
    give_weights(settings);
    session_ = Ort::Session(*library().environment, path_.c_str(), settings);
  } catch (const Ort::Exception& error) {
    const std::string reason = reason_of(error);
    if (is_shortage(reason)) fail(JE_E_MEMORY, path_, ": ", reason, "; ", kFreeMemory);
    if (!device_.is_cpu())
      fail(JE_E_DEVICE, path_, ": ", device_.provider(), " of ONNX Runtime ", onnxruntime_version(),
           " cannot run it: ", reason, "; another version may, the device cpu does");
    fail(JE_E_BUNDLE, path_, ": ONNX Runtime ", onnxruntime_version(), " cannot open it: ", reason,
         "; use a newer one, or export it again");
  }
  check_ends(path_, component, session_);
}

void Graph::give_weights(Ort::SessionOptions& to) {
  std::vector<std::string> names;
  for (const GraphWeights& each : weights_) {
    names.push_back(each.quantized_name);
    values_.push_back(value_of({"", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, each.quantized_shape, each.quantized.data()}));
    names.push_back(each.scales_name);
    values_.push_back(value_of(floats("", each.scales_shape, each.scales.data())));
  }
  if (!names.empty()) to.AddExternalInitializers(names, values_);
}

void Graph::run_values(const std::vector<const char*>& input_names, const std::vector<const OrtValue*>& inputs,
                       const std::vector<const char*>& output_names, std::vector<OrtValue*> outputs,
                       const Cancel& cancel) const {
  cancel.check();
  try {
    Ort::ThrowOnError(Ort::GetApi().Run(session_, cancel.options(), input_names.data(), inputs.data(), inputs.size(),
                                        output_names.data(), output_names.size(), outputs.data()));
  } catch (const Ort::Exception& error) {
    cancel.check();
    const std::string reason = reason_of(error);
    if (is_shortage(reason)) fail(JE_E_MEMORY, path_, ": ", reason, "; draw fewer images at once");
    fail(JE_E_RUNTIME, path_, ": ONNX Runtime ", onnxruntime_version(), ": ", reason, "; export the bundle again");
  }
}

void Graph::run(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs, const Cancel& cancel) const {
  std::vector<Ort::Value> kept;
  std::vector<const char*> input_names, output_names;
  std::vector<const OrtValue*> given;
  std::vector<OrtValue*> made;
  for (const Tensor& each : inputs) {
    input_names.push_back(each.name);
    given.push_back(kept.emplace_back(value_of(each)));
  }
  for (const Tensor& each : outputs) {
    output_names.push_back(each.name);
    made.push_back(kept.emplace_back(value_of(each)));
  }
  run_values(input_names, given, output_names, std::move(made), cancel);
  for (const Tensor& each : outputs) {
    if (each.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) continue;
    size_t count = 1;
    for (const int64_t size : each.shape) count *= static_cast<size_t>(size);
    if (!are_finite(static_cast<const float*>(each.data), count))
      fail(JE_E_BUNDLE, path_, ": computes what is no finite number; export the bundle again");
  }
}

Ort::Value Graph::device_value(const std::vector<int64_t>& shape, ONNXTensorElementDataType type) const {
  const Ort::MemoryInfo where("Cuda", OrtDeviceAllocator, device_.ordinal, OrtMemTypeDefault);
  try {
    std::call_once(has_device_memory_, [&] { device_memory_ = Ort::Allocator(session_, where); });
    return Ort::Value::CreateTensor(device_memory_, shape.data(), shape.size(), type);
  } catch (const Ort::Exception& error) {
    fail(JE_E_MEMORY, path_, ": ", device_.text(), " has no room for keys and values: ", reason_of(error),
         "; draw fewer images at once, or use the device cpu");
  }
}

}  // namespace je
