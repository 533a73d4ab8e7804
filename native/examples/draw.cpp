// Draws several images of a prompt in one batch with janus_edge.hpp. Ctrl-C cancels it.
//
// usage: draw BUNDLE PROMPT NUMBER [ONNXRUNTIME]
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "janus_edge.hpp"

namespace {

volatile std::sig_atomic_t is_interrupted = 0;

int draw(int argc, char** argv) {
  je_options options = janus_edge::default_options();
  options.onnxruntime = argc > 4 ? argv[4] : nullptr;
  const janus_edge::Session session(argv[1], options);
  const je_info info = session.info();
  std::cerr << info.name << " on " << info.device << ", ONNX Runtime " << info.onnxruntime << '\n';

  je_request request = janus_edge::default_request();
  request.prompt = argv[2];
  request.num_images = std::atoi(argv[3]);
  janus_edge::Job job = session.start(request);
  for (const je_event& event : job) {
    if (is_interrupted) job.cancel();
    if (event.kind != JE_EVENT_IMAGE) continue;
    const std::string path = "out-" + std::to_string(event.index + 1) + ".png";
    janus_edge::save(event.image, path);
    std::cout << path << ", seed " << event.seed << '\n';
  }
  return job.is_cancelled() ? 130 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: " << argv[0] << " BUNDLE PROMPT NUMBER [ONNXRUNTIME]\n";
    return 2;
  }
  std::signal(SIGINT, [](int) { is_interrupted = 1; });
  try {
    return draw(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
