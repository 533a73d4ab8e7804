#include "devices.hpp"

#include <dlfcn.h>

#include <algorithm>

#include "cuda_backend.hpp"
#include "error.hpp"
#include "onnxruntime.hpp"

namespace je {
namespace {

struct Provider {
  const char *kind, *name;
  bool has_memory;
};
constexpr Provider kProviders[] = {
    {"cpu", "CPUExecutionProvider", false},           {"cuda", "CUDAExecutionProvider", true},
    {"tensorrt", "TensorrtExecutionProvider", true},  {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider", true},
    {"coreml", "CoreMLExecutionProvider", false},     {"directml", "DmlExecutionProvider", false},
    {"openvino", "OpenVINOExecutionProvider", false}, {"qnn", "QNNExecutionProvider", false},
    {"migraphx", "MIGraphXExecutionProvider", false},
};

const Provider* provider_of(const std::string& kind) {
  for (const Provider& each : kProviders)
    if (kind == each.kind) return &each;
  return nullptr;
}

Device parse(const std::string& text) {
  const size_t colon = text.find(':');
  Device found{text.substr(0, colon), 0};
  const std::string number = colon == std::string::npos ? "0" : text.substr(colon + 1);
  const bool is_number =
      !number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string::npos;
  if (provider_of(found.kind) == nullptr || !is_number) {
    std::string names = "auto";
    for (const Provider& each : kProviders) names += std::string(", ") + each.kind;
    fail(JE_E_ARGUMENT, "device is \"", text, "\"; give ", names, ", or with a number, as cuda:1");
  }
  found.ordinal = std::stoi(number);
  return found;
}

bool has_driver() {
  static const bool is_there = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) != nullptr;
  return is_there;
}

// Return why a bundle cannot run on a device; "" if nothing speaks against it. ONNX Runtime's are not tried.
std::string why_not(const Manifest& manifest, const Device& device) {
  if (device.kind == "cuda" && has_cuda_kernels("decoder", manifest))
    return why_no_cuda_kernels(manifest, device.ordinal);
  const std::vector<std::string> here = Ort::GetAvailableProviders();
  if (std::find(here.begin(), here.end(), device.provider()) == here.end())
    return join("no ", device.provider(), " in this ONNX Runtime ", onnxruntime_version(),
                "; use a build of it that has one");
  const bool needs_driver = device.has_memory();
  return needs_driver && !has_driver() ? "no NVIDIA driver here" : "";
}

}  // namespace

bool Device::has_memory() const { return provider_of(kind)->has_memory; }

const char* Device::provider() const { return provider_of(kind)->name; }

Device choose_device(const Manifest& manifest, const std::string& wanted) {
  if (manifest.components.at("decoder").backend == "tensorrt")
    fail(JE_E_DEVICE, manifest.name,
         ": its engines are TensorRT's, which only Python runs; export it with --lowering portable");
  if (wanted != "auto") {
    const Device found = parse(wanted);
    const std::string reason = why_not(manifest, found);
    if (!reason.empty()) fail(JE_E_DEVICE, manifest.name, " on ", found.text(), ": ", reason);
    return found;
  }
  // CUDA is chosen only for graphs of standard operators; of other graphs it would leave most to the CPU
  const bool is_portable = std::all_of(manifest.components.begin(), manifest.components.end(),
                                       [](const auto& each) { return each.second.target == "any"; });
  const Device gpu{"cuda", 0};
  const bool is_for_gpu = is_portable || has_cuda_kernels("decoder", manifest);
  return is_for_gpu && why_not(manifest, gpu).empty() ? gpu : Device();
}

}  // namespace je
