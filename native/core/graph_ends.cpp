#include "graph_ends.hpp"

#include "error.hpp"

namespace je {
namespace {

ONNXTensorElementDataType type_of(const std::string& dtype) {
  static const std::map<std::string, ONNXTensorElementDataType> kTypes = {
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},     {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"bfloat16", ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}, {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
      {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},       {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
      {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8}};
  return kTypes.at(dtype);
}

bool is_same(const Ort::TypeInfo& found, const TensorInfo& wanted) {
  if (found.GetONNXType() != ONNX_TYPE_TENSOR) return false;
  const auto tensor = found.GetTensorTypeAndShapeInfo();
  const std::vector<int64_t> shape = tensor.GetShape();
  if (tensor.GetElementType() != type_of(wanted.dtype) || shape.size() != wanted.shape.size()) return false;
  std::vector<const char*> names(shape.size());
  Ort::ThrowOnError(Ort::GetApi().GetSymbolicDimensions(tensor, names.data(), names.size()));
  for (size_t i = 0; i < shape.size(); ++i) {
    const Dimension& dimension = wanted.shape[i];
    if (dimension.name != names[i] || (dimension.name.empty() && shape[i] != dimension.size)) return false;
  }
  return true;
}

}  // namespace

void check_ends(const std::string& path, const ComponentInfo& component, const Ort::Session& session) {
  const Ort::AllocatorWithDefaultOptions allocator;
  const auto check = [&](const char* what, const std::vector<TensorInfo>& wanted, size_t count, auto name, auto type) {
    if (count != wanted.size())
      fail(JE_E_BUNDLE, path, ": has ", count, " ", what, ", the manifest says ", wanted.size(),
           "; export the bundle again");
    for (size_t i = 0; i < count; ++i)
      if (std::string(name(i).get()) != wanted[i].name || !is_same(type(i), wanted[i]))
        fail(JE_E_BUNDLE, path, ": ", what, ": ", i, " is not ", wanted[i].name,
             " as the manifest says; export the bundle again");
  };
  check(
      "inputs", component.inputs, session.GetInputCount(),
      [&](size_t i) { return session.GetInputNameAllocated(i, allocator); },
      [&](size_t i) { return session.GetInputTypeInfo(i); });
  check(
      "outputs", component.outputs, session.GetOutputCount(),
      [&](size_t i) { return session.GetOutputNameAllocated(i, allocator); },
      [&](size_t i) { return session.GetOutputTypeInfo(i); });
}

}  // namespace je
