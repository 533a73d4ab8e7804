// The decoder as a graph that ONNX Runtime runs.
#pragma once

#include <memory>

#include "bundle.hpp"
#include "decoder_engine.hpp"

namespace je {

// Open the decoder. component: "decoder", or kPrefill, its copy for prefill. Throws Error, see Graph.
std::unique_ptr<DecoderEngine> graph_decoder(const Bundle& bundle, const std::string& component,
                                             const GraphOptions& options);

}  // namespace je
