// An open bundle: every file is what the manifest says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "files.hpp"
#include "manifest.hpp"
#include "prompt.hpp"

namespace je {

struct Bundle {
  std::string folder;
  Manifest manifest;
  std::string sha256;  // of the manifest, and so of everything
  std::unique_ptr<PromptEncoder> encoder;

  std::string manifest_file() const { return folder + "/manifest.json"; }
  const ComponentInfo& component(const std::string& name) const { return manifest.component(name, manifest_file()); }
  std::string path(const ComponentInfo& component) const { return folder + "/" + component.file.file; }
  uint64_t num_bytes(const std::string& component) const;  // of its files
};

// check_all: hash every file, also those that were found right before and not touched since. Throws Error
// JE_E_BUNDLE.
Bundle open_bundle(const std::string& folder, bool check_all);

// A look-up table (rows, width): a .npy file of float32 or float16, mapped.
class Table {
 public:
  // Throws Error JE_E_BUNDLE if it has not this shape.
  Table(const Bundle& bundle, const std::string& component, int64_t rows, int64_t width);

  // Throws Error JE_E_BUNDLE for a row that there is not.
  void copy_row(int64_t row, float* to) const;

 private:
  std::string path_;
  Mapped file_;
  const uint8_t* numbers_ = nullptr;
  int64_t rows_, width_;
  bool is_half_ = false, is_by_column_ = false;
};

}  // namespace je
