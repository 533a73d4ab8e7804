// Compares the inputs and outputs of a graph with the manifest. Mirrors runtime/backends/graph_ends.py.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <string>

#include "manifest.hpp"

namespace je {

// Throw Error JE_E_BUNDLE that names the first difference: the file holds another graph, or one that no loop can run.
// path: of the graph, for the error.
void check_ends(const std::string& path, const ComponentInfo& component, const Ort::Session& session);

}  // namespace je
