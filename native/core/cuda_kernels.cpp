#include "cuda_kernels.hpp"

#include <set>

#include "error.hpp"
#include "limits.hpp"
#include "sha256.hpp"

namespace je {
namespace {

constexpr int64_t kWords = 16;    // of a group of inputs, for one output
constexpr int kOwnCodeFrom = 90;  // Triton's code for these GPUs uses what only that very version has
constexpr int kJetson = 87;       // runs only its own code
constexpr size_t kSpare = 16;     // arguments
constexpr int64_t kMostConstant = 65536;
const char* const kAdvice = "copy the bundle again";

int capability_of(const KernelInfo& kernel) { return std::stoi(kernel.target.substr(3)); }

// Return true if a kernel's code runs on a GPU of this compute capability.
bool runs(const KernelInfo& kernel, int capability) {
  const int made = capability_of(kernel);
  if (made >= kOwnCodeFrom || made == kJetson || capability == kJetson) return made == capability;
  return made / 10 == capability / 10 && made <= capability;
}

std::string targets_of(const Manifest& manifest) {
  std::set<std::string> names;
  for (const KernelInfo& each : manifest.kernels) names.insert(each.target);
  std::string text;
  for (const std::string& each : names) text += (text.empty() ? "" : ", ") + each;
  return text.empty() ? "none" : text;
}

}  // namespace

bool has_cuda_kernels(const std::string& component, const Manifest& manifest) {
  const std::map<std::string, std::string> last{
      {"decoder", "attend"}, {"image_head", "head_logits"}, {"text_head", "text_logits"}};
  const auto wanted = last.find(component);
  if (wanted == last.end()) return false;
  for (const KernelInfo& each : manifest.kernels)
    if (each.name == wanted->second) return true;
  return false;
}

std::string why_no_cuda_kernels(const Manifest& manifest, int ordinal) {
  try {
    const Gpu gpu(ordinal);
    std::set<std::string> names;
    for (const KernelInfo& each : manifest.kernels)
      if (runs(each, gpu.capability())) names.insert(each.name);
    if (names.count("attend") != 0 && names.count("attend_many") == 0)
      return "its GPU kernels were exported by an earlier version; export it again";
    if (!names.empty()) return "";
    return join("its GPU kernels are for ", targets_of(manifest), ", not for ", gpu.text(), ", sm_", gpu.capability(),
                "; export it again with --target sm_", gpu.capability());
  } catch (const Error& error) {
    return error.what();
  }
}

CudaKernels::CudaKernels(const Bundle& bundle, int ordinal)
    : folder_(bundle.folder), gpu_(std::make_shared<const Gpu>(ordinal)) {
  for (const KernelInfo& each : bundle.manifest.kernels) {
    if (!runs(each, gpu_->capability())) continue;
    const auto known = kernels_.find(each.name);
    if (known == kernels_.end() || capability_of(known->second) <= capability_of(each)) kernels_[each.name] = each;
  }
}

const KernelInfo& CudaKernels::find(const std::string& name) const {
  const auto found = kernels_.find(name);
  if (found == kernels_.end() && !kernels_.empty())
    fail(JE_E_BUNDLE, folder_, ": no kernel ", name, ": it was exported by an earlier version; export it again");
  if (found == kernels_.end())
    fail(JE_E_DEVICE, folder_, ": no kernel ", name, " for ", gpu_->text(), ", sm_", gpu_->capability(),
         "; export the bundle again with --target sm_", gpu_->capability());
  return found->second;
}

void CudaKernels::launch(const std::string& name, int64_t programs, const std::vector<Argument>& values,
                         bool overlaps) const {
  const KernelInfo& kernel = find(name);
  void*& function = functions_[name];
  const std::string path = folder_ + "/" + kernel.file.file;
  if (function == nullptr) {  // hashed again: the bundle may have been opened hours ago
    std::vector<uint8_t> image = read_file(path, JE_E_BUNDLE, kAdvice, limits::kKernelBytes);
    if (sha256(image.data(), image.size()) != kernel.file.sha256)
      fail(JE_E_BUNDLE, path, ": is another file since the bundle was opened; open the bundle again");
    image.push_back(0);  // the driver takes no size: it would read text up to a zero
    function = gpu_->function(image.data(), kernel.symbol, static_cast<unsigned>(kernel.shared_bytes));
  }
  // Behind a kernel's own arguments Triton expects addresses of scratch memory, which these kernels do not use.
  std::vector<Argument> given = values;
  while (given.size() < kernel.arguments.size() && kernel.arguments[given.size()] == "*scratch")
    given.emplace_back(uint64_t{0});
  if (given.size() != kernel.arguments.size())
    fail(JE_E_BUNDLE, path, ": takes ", kernel.arguments.size(), " arguments, not ", given.size(),
         "; export the bundle again");
  std::vector<void*> addresses;
  for (Argument& each : given) addresses.push_back(&each.bits);
  Argument none(uint64_t{0});
  addresses.insert(addresses.end(), kSpare, &none.bits);  // if the code takes more than the manifest says
  if (programs < 1 || programs > INT32_MAX)
    fail(JE_E_BUNDLE, path, ": ", programs, " programs; export the bundle again");
  const auto early = kernel.constants.find("OVERLAPS");
  gpu_->launch(function, static_cast<unsigned>(programs), static_cast<unsigned>(kernel.threads),
               static_cast<unsigned>(kernel.shared_bytes), addresses.data(),
               overlaps && early != kernel.constants.end() && early->second != 0);
}

int64_t CudaKernels::constant(const std::string& name, const std::string& key) const {
  const KernelInfo& kernel = find(name);
  const auto found = kernel.constants.find(key);
  const int64_t value = found == kernel.constants.end() ? 0 : found->second;
  if (value < 1 || value > kMostConstant)
    fail(JE_E_BUNDLE, folder_, "/", kernel.file.file, ": ", key, " is ", value, "; export the bundle again");
  return value;
}

void CudaKernels::require(const std::string& name, const std::string& key, int64_t value) const {
  const int64_t found = constant(name, key);
  if (found != value)
    fail(JE_E_BUNDLE, folder_, "/", find(name).file.file, ": compiled for ", key, " ", found, ", not ", value,
         "; export the bundle again");
}

std::shared_ptr<const CudaKernels> open_cuda_kernels(const Bundle& bundle, int ordinal) {
  return std::make_shared<const CudaKernels>(bundle, ordinal);
}

CudaWeights::CudaWeights(std::shared_ptr<const CudaKernels> kernels, const Bundle& bundle, const std::string& component,
                         std::string what)
    : kernels_(std::move(kernels)), host_(bundle, bundle.component(component)), what_(std::move(what)) {}

GpuMemory CudaWeights::vector(const std::string& name, const std::vector<int64_t>& shape) const {
  size_t bytes = sizeof(float);
  for (const int64_t each : shape) bytes *= static_cast<size_t>(each);
  const float* from = host_.floats(name, shape);
  const Gpu& gpu = *kernels_->gpu();
  GpuMemory made(kernels_->gpu(), bytes, what_);
  gpu.upload(made.at(), from, bytes);
  gpu.wait();
  return made;
}

GpuMemory CudaWeights::bias(const std::string& layer, int64_t outputs) const {
  if (host_.count(layer + ".bias") > 0) return vector(layer + ".bias", {outputs});
  GpuMemory made(kernels_->gpu(), static_cast<size_t>(outputs) * sizeof(float), what_);
  kernels_->gpu()->clear(made.at(), made.size());
  return made;
}

Words CudaWeights::words(const std::vector<std::string>& layers, int bits, int64_t inputs, int64_t outputs,
                         int64_t multiple) const {
  const Gpu& gpu = *kernels_->gpu();
  std::vector<je_matrix> found;
  for (const std::string& each : layers) found.push_back(host_.matrix(each, bits, inputs, outputs));
  const std::string kernel = "repack" + std::to_string(bits);
  const TileLayout layout{bits, found[0].block};
  const int64_t group = 32 / bits * kWords, own = found[0].inputs;
  kernels_->require(kernel, "BLOCK", layout.block);
  const int64_t blocks = (own + layout.block - 1) / layout.block, groups = blocks * layout.block / group;
  host_.require(blocks * layout.block % group == 0);
  int64_t total = 0;
  for (const je_matrix& each : found) {
    host_.require(each.inputs == own && each.block == found[0].block);
    total += (each.outputs + multiple - 1) / multiple * multiple;
  }
  const size_t row_words = static_cast<size_t>(groups * kWords) * 4, row_scales = static_cast<size_t>(blocks) * 4;
  const auto count = static_cast<size_t>(total);
  Words made{{kernels_->gpu(), count * row_words, what_},
             {kernels_->gpu(), count * row_scales, what_},
             total,
             blocks * layout.block};
  gpu.clear(made.words.at(), made.words.size());
  gpu.clear(made.scales.at(), made.scales.size());
  size_t first = 0;
  for (const je_matrix& each : found) {
    const auto bytes = static_cast<size_t>(layout.size(each.outputs, each.inputs));
    const GpuMemory tiles(kernels_->gpu(), bytes, what_);
    gpu.upload(tiles.at(), each.tiles, bytes);
    const int64_t programs = (each.outputs + TileLayout::kTile - 1) / TileLayout::kTile * groups;
    kernels_->launch(kernel, programs,
                     {tiles.at(), tiles.at(), made.words.at(first * row_words), made.scales.at(first * row_scales),
                      each.outputs, static_cast<int32_t>(groups)});
    gpu.wait();  // the tiles go
    first += static_cast<size_t>((each.outputs + multiple - 1) / multiple * multiple);
  }
  return made;
}

}  // namespace je
