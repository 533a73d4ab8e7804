#include "cpu_weights.hpp"

#include <algorithm>

#include "error.hpp"
#include "table.hpp"

namespace je {

Weights::Weights(const Bundle& bundle, const ComponentInfo& component)
    : path_(data_path(bundle.folder, component)), component_(component), file_(path_) {}

const float* Weights::floats(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto found = component_.tensors.find(name);
  if (found == component_.tensors.end() || found->second.dtype != "float32" || found->second.shape != shape)
    fail(JE_E_BUNDLE, path_, ": no ", name, " of the right shape; export the bundle again");
  double size = sizeof(float);  // a double cannot overflow
  for (const int64_t each : shape) size *= static_cast<double>(each);
  const auto* numbers =
      reinterpret_cast<const float*>(inside(path_, name, file_.data(), file_.size(), found->second.offset, size));
  if (!are_finite(numbers, static_cast<size_t>(size) / sizeof(float)))
    fail(JE_E_BUNDLE, path_, ": ", name, " holds what is no finite number; export the bundle again");
  return numbers;
}

je_matrix Weights::matrix(const std::string& layer, int bits, int64_t inputs, int64_t outputs) const {
  const std::string name = layer + ".weight.tiles", bias = layer + ".bias";
  const auto found = component_.tensors.find(name);
  const bool is_there = found != component_.tensors.end() && found->second.shape.size() == 2;
  const TileLayout* layout = is_there ? tile_layout(found->second.dtype) : nullptr;
  if (layout == nullptr || layout->bits != bits || (inputs != 0 && found->second.shape[1] != inputs) ||
      (outputs != 0 && found->second.shape[0] != outputs))
    fail(JE_E_BUNDLE, path_, ": no ", name, " of the right shape; export the bundle again");
  outputs = found->second.shape[0];
  inputs = found->second.shape[1];
  const double size = layout->size(outputs, inputs);
  return {inside(path_, name, file_.data(), file_.size(), found->second.offset, size),
          component_.tensors.count(bias) ? floats(bias, {outputs}) : nullptr,
          static_cast<int32_t>(outputs),
          static_cast<int32_t>(inputs),
          layout->bits,
          static_cast<int32_t>(layout->block)};
}

int64_t Weights::count(const std::string& name) const {
  const auto found = component_.tensors.find(name);
  if (found == component_.tensors.end()) return 0;
  double size = 1;
  for (const int64_t each : found->second.shape) size *= static_cast<double>(each);
  return size < 1e15 ? static_cast<int64_t>(size) : 0;
}

const float* Weights::numbers(const std::string& name, int64_t size) const {
  const auto found = component_.tensors.find(name);
  return floats(name, count(name) == size && found != component_.tensors.end() ? found->second.shape
                                                                               : std::vector<int64_t>{size});
}

double Weights::constant(const std::string& name) const {
  const auto found = component_.constants.find(name);
  if (found == component_.constants.end())
    fail(JE_E_BUNDLE, path_, ": no constant ", name, "; export the bundle again");
  return found->second;
}

std::vector<std::string> Weights::chain() const {
  std::vector<std::pair<uint64_t, std::string>> tiles;
  for (const auto& [name, each] : component_.tensors)
    if (tile_layout(each.dtype) != nullptr)
      tiles.emplace_back(each.offset, name.substr(0, name.rfind(".weight.tiles")));
  std::sort(tiles.begin(), tiles.end());
  std::vector<std::string> found;
  for (const auto& [offset, name] : tiles) found.push_back(name);
  return found;
}

void Weights::require(bool fits) const {
  if (!fits) fail(JE_E_BUNDLE, path_, ": sizes do not fit together; export the bundle again");
}

Lookup::Lookup(const Weights& weights) : weights_(weights), functions_{} {
  functions_.context = this;
  functions_.count = [](void* self, const char* name) { return static_cast<Lookup*>(self)->weights_.count(name); };
  functions_.floats = [](void* self, const char* name, int32_t count) -> const float* {
    auto& lookup = *static_cast<Lookup*>(self);
    try {
      return lookup.weights_.numbers(name, count);
    } catch (...) {  // C code does not let exceptions through
      if (!lookup.error_) lookup.error_ = std::current_exception();
      return nullptr;
    }
  };
  functions_.matrix = [](void* self, const char* layer, int32_t inputs, int32_t outputs, je_matrix* found) {
    auto& lookup = *static_cast<Lookup*>(self);
    try {
      *found = lookup.weights_.matrix(layer, kWideBits, inputs, outputs);
      return 1;
    } catch (...) {
      if (!lookup.error_) lookup.error_ = std::current_exception();
      return 0;
    }
  };
}

void Lookup::check(int opened) const {
  if (error_) std::rethrow_exception(error_);
  if (opened == JE_NO_MEMORY) throw std::bad_alloc();
  weights_.require(opened == JE_OPENED);
}

}  // namespace je
