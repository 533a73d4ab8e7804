// The manifest of a bundle, manifest.json (docs/bundle.md). Mirrors the schema of runtime/manifest.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace je {

inline constexpr int64_t kFormat = 3;                              // of the manifest (docs/bundle.md)
inline constexpr const char* kPrefill = "decoder_prefill";         // the decoder again, for many positions at once
inline constexpr const char* kPreviewDecoder = "preview_decoder";  // optional: sharp previews (docs/draw.md)

// A dimension of a shape: a fixed size, or a name if the size varies.
struct Dimension {
  std::string name;  // "": the size is fixed
  int64_t size = 0;
};

// An input or output of a component.
struct TensorInfo {
  std::string name, dtype;
  std::vector<Dimension> shape;
};

// A file and its hash.
struct FileInfo {
  std::string file, sha256;  // file "": there is no file
};

// A weight in a component's data file. offset: in bytes. is_in_graph: false if it is for the CPU kernels alone.
struct Stored {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t offset = 0;
  bool is_in_graph = true;
};

// A GPU kernel, compiled for one kind of GPU. target: "sm_89". constants: what it was compiled with.
struct KernelInfo {
  FileInfo file;
  std::string name, symbol, target;
  int64_t threads = 0, shared_bytes = 0;
  std::vector<std::string> arguments;
  std::map<std::string, int64_t> constants;
};

// The sizes that a named dimension can have.
struct Range {
  int64_t least, usual, most;
};

// A component, one exported part of the model.
struct ComponentInfo {
  FileInfo file, data;
  std::string backend, target, weights;
  bool upcasts_on_use = false;  // weights stay fp16 in memory and are converted slice by slice
  std::vector<TensorInfo> inputs, outputs;
  std::map<std::string, Range> profile;
  std::map<std::string, Stored> tensors;
  std::map<std::string, double> constants;  // that the CPU kernels need, for example the number of heads

  const TensorInfo* output(std::string_view name) const;  // nullptr if there is no such output
};

// Sizes of the model.
struct Sizes {
  int64_t hidden_size, vocab_size, num_layers, num_kv_heads, head_dim, max_length;
  int64_t image_size, num_image_tokens;
  double norm_epsilon = 1e-6;
  int64_t code_grid = 0, codebook_size = 0;                       // Janus
  int64_t latent_channels = 0, latent_size = 0, latent_grid = 0;  // JanusFlow

  // Return the number of positions that a drawn image takes after its prompt.
  int64_t num_drawn() const { return code_grid * code_grid + latent_grid * latent_grid; }
};

// Settings of sampling, for both model families. Settings that a family does not have keep these values.
struct Sampling {
  double guidance_scale = 1, temperature = 0, top_p = 1;
  int64_t top_k = 0;
  int64_t num_steps = 0;
  std::string solver;
  double shift = 1, guidance_start = 0, guidance_end = 1;
};

// The parts of prompts.
struct Template {
  std::string user_role, assistant_role, system_prompt;
};

// A manifest that was read and checked.
struct Manifest {
  std::string name, created_by;
  bool is_flow = false;
  Sizes sizes{};
  Template prompt;
  Sampling sampling;
  FileInfo tokenizer, tokenizer_bin;
  std::map<std::string, ComponentInfo> components;
  std::vector<KernelInfo> kernels;
  TensorInfo cache;  // of the decoder's inputs: keys of the first layer (rows, heads, slots, numbers)

  // Return a component. file: the manifest's name, for errors. Throws Error JE_E_BUNDLE if there is no such component.
  const ComponentInfo& component(const std::string& name, const std::string& file) const;
};

// Return the settings of the papers, which a request can ask for (je_request.reference).
Sampling reference_sampling(bool is_flow);

// Read the text of a manifest. file: its name, for errors. Throws Error JE_E_BUNDLE that names the first wrong key.
Manifest parse_manifest(std::string_view text, const std::string& file);

}  // namespace je
