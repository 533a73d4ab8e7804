// Whether a graph has the inputs and outputs that its manifest says. Equal to runtime/backends/graph_ends.py.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <string>

#include "manifest.hpp"

namespace je {

// Throws Error JE_E_BUNDLE naming the first difference: another graph lies there, or one that no loop can run.
void check_ends(const std::string& path, const ComponentInfo& component, const Ort::Session& session);

}  // namespace je
