// An open bundle: its files match the manifest's hashes, and the manifest fits together. Mirrors runtime/bundle.py.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "files.hpp"
#include "manifest.hpp"
#include "prompt.hpp"
#include "table.hpp"

namespace je {

// A bundle that was opened and checked. Immutable: any number of threads may use it.
struct Bundle {
  std::string folder;
  Manifest manifest;
  std::string sha256;  // of the manifest, which holds the hashes of all other files
  std::unique_ptr<PromptEncoder> encoder;
  std::map<std::string, std::shared_ptr<const Table>> tables;
  std::map<std::string, Stamp> stamps;  // stamps of the files of the components and kernels when they were checked

  // Return the path of the manifest.
  std::string manifest_file() const { return folder + "/manifest.json"; }
  // Return a component. Throws Error JE_E_BUNDLE if there is none of this name.
  const ComponentInfo& component(const std::string& name) const { return manifest.component(name, manifest_file()); }
  // Return true if the decoder's graph has operators that ONNX Runtime has on a CPU alone.
  bool is_decoder_for_cpu() const { return component("decoder").target == "cpu"; }
  // Return the path of a component's file.
  std::string path(const ComponentInfo& component) const { return folder + "/" + component.file.file; }

  // Return the size of a component's files, in bytes.
  uint64_t num_bytes(const std::string& component) const;

  // Throw Error JE_E_BUNDLE if a file of the component was changed since the bundle was opened. An engine opens when it
  // is first needed, which may be hours later.
  void check_unchanged(const std::string& component) const;
};

// Open the bundle in `folder`. check_all: hash every file, also those that had the right hash before and have not
// changed since. Throws Error JE_E_BUNDLE.
Bundle open_bundle(const std::string& folder, bool check_all);

}  // namespace je
