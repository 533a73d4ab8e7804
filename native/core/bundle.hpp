// An open bundle: every file is what the manifest says, and that fits together.
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

struct Bundle {
  std::string folder;
  Manifest manifest;
  std::string sha256;  // of the manifest, and so of everything
  std::unique_ptr<PromptEncoder> encoder;
  std::map<std::string, std::shared_ptr<const Table>> tables;
  std::map<std::string, Stamp> stamps;  // of every file of the components and kernels, as it was checked

  std::string manifest_file() const { return folder + "/manifest.json"; }
  const ComponentInfo& component(const std::string& name) const { return manifest.component(name, manifest_file()); }
  std::string path(const ComponentInfo& component) const { return folder + "/" + component.file.file; }
  uint64_t num_bytes(const std::string& component) const;  // of its files

  // Engines open when first needed, which may be hours later. Throws Error JE_E_BUNDLE if a file of the component is
  // not what was checked as the bundle was opened.
  void check_unchanged(const std::string& component) const;
};

// check_all: hash every file, also those that were found right before and not touched since. Throws Error
// JE_E_BUNDLE.
Bundle open_bundle(const std::string& folder, bool check_all);

}  // namespace je
