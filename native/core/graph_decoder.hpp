// The decoder as a graph of ONNX Runtime's.
#pragma once

#include <memory>

#include "bundle.hpp"
#include "decoder_engine.hpp"

namespace je {

// component: "decoder", or its copy for many positions.
std::unique_ptr<DecoderEngine> graph_decoder(const Bundle& bundle, const std::string& component,
                                             const GraphOptions& options);

}  // namespace je
