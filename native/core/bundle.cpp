#include "bundle.hpp"

#include <algorithm>
#include <cstring>

#include "checked.hpp"
#include "error.hpp"
#include "sha256.hpp"
#include "tokenizer.hpp"

namespace je {
namespace {

constexpr const char* kCopy = "copy the bundle again";

void compare(const std::string& path, const std::string& found, const std::string& expected) {
  if (found != expected)
    fail(JE_E_BUNDLE, path, ": damaged: its SHA-256 is ", found.substr(0, 12), "…, not ", expected.substr(0, 12), "…; ",
         kCopy);
}

std::vector<uint8_t> read_checked(const std::string& folder, const FileInfo& file) {
  std::vector<uint8_t> bytes = read_file(folder + "/" + file.file, JE_E_BUNDLE, kCopy);
  compare(folder + "/" + file.file, sha256(bytes.data(), bytes.size()), file.sha256);
  return bytes;
}

// Every file but the tokenizers, which are read whole and hashed then.
std::vector<FileInfo> files_of(const Manifest& manifest) {
  std::vector<FileInfo> found = manifest.kernels;
  if (!manifest.tokenizer_bin.file.empty()) found.push_back(manifest.tokenizer_bin);
  for (const auto& [name, part] : manifest.components) {
    found.push_back(part.file);
    if (!part.data.file.empty()) found.push_back(part.data);
  }
  return found;
}

float widened(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = 0x7F800000 | fraction << 13;
  } else if (exponent > 0) {
    bits = (exponent + 112) << 23 | fraction << 13;
  } else {  // a subnormal: so many 2^-24
    const float small = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &small, 4);
  }
  bits |= sign;
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}

// The value of a key in the header of a .npy file: what follows "'key': " up to the end of that value.
std::string value_of(const std::string& header, const std::string& key, char end) {
  const size_t found = header.find("'" + key + "': ");
  if (found == std::string::npos) return "";
  const size_t start = found + key.size() + 4, stop = header.find(end, start);
  return stop == std::string::npos ? "" : header.substr(start, stop - start);
}

}  // namespace

uint64_t Bundle::num_bytes(const std::string& name) const {
  const ComponentInfo& part = component(name);
  uint64_t total = 0;
  for (const FileInfo& file : {part.file, part.data})
    if (const auto stamp = stamp_of(folder + "/" + file.file); stamp && !file.file.empty())
      total += static_cast<uint64_t>(stamp->size);
  return total;
}

Bundle open_bundle(const std::string& folder, bool check_all) {
  Bundle bundle;
  bundle.folder = folder;
  const std::vector<uint8_t> raw = read_file(bundle.manifest_file(), JE_E_BUNDLE, "is it the folder of a bundle?");
  bundle.sha256 = sha256(raw.data(), raw.size());
  const std::vector<uint8_t> checksum = read_file(folder + "/manifest.sha256", JE_E_BUNDLE, kCopy);
  compare(bundle.manifest_file(), bundle.sha256 + "\n", {checksum.begin(), checksum.end()});
  bundle.manifest = parse_manifest({reinterpret_cast<const char*>(raw.data()), raw.size()}, bundle.manifest_file());
  const Manifest& manifest = bundle.manifest;
  if (manifest.tokenizer_bin.file.empty())
    fail(JE_E_BUNDLE, bundle.manifest_file(), ": of a version without tokenizer.bin; export the bundle again");
  const auto check = [&](const FileInfo& file) {
    compare(folder + "/" + file.file, file_sha256(folder + "/" + file.file), file.sha256);
  };
  if (check_all)
    check_each(files_of(manifest), check);
  else
    check_changed(folder, files_of(manifest), check);
  read_checked(folder, manifest.tokenizer);
  const std::vector<uint8_t> tables = read_checked(folder, manifest.tokenizer_bin);
  try {
    bundle.encoder = std::make_unique<PromptEncoder>(Tokenizer(tables), manifest.prompt);
  } catch (const std::runtime_error& error) {
    fail(JE_E_BUNDLE, folder, "/", error.what());
  }
  return bundle;
}

Table::Table(const Bundle& bundle, const std::string& name, int64_t rows, int64_t width)
    : path_(bundle.path(bundle.component(name))), file_(path_), rows_(rows), width_(width) {
  const auto wrong = [&] {
    fail(JE_E_BUNDLE, path_, ": not an array (", rows, ", ", width, "); export the bundle again");
  };
  const uint8_t* bytes = file_.data();
  // \x93NUMPY, version 1.0, a length of two bytes, a Python dictionary (NEP 1)
  if (file_.size() < 10 || std::memcmp(bytes, "\x93NUMPY\1\0", 8) != 0) wrong();
  const size_t start = 10u + bytes[8] + 256u * bytes[9];
  if (file_.size() < start) wrong();
  const std::string header(reinterpret_cast<const char*>(bytes) + 10, start - 10);
  const std::string type = value_of(header, "descr", ',');
  is_half_ = type == "'<f2'";
  if (!is_half_ && type != "'<f4'") wrong();
  is_by_column_ = value_of(header, "fortran_order", ',') == "True";
  if (value_of(header, "shape", ')') != join("(", rows, ", ", width)) wrong();
  const uint64_t numbers = static_cast<uint64_t>(rows) * static_cast<uint64_t>(width);
  if (file_.size() - start < numbers * (is_half_ ? 2 : 4)) wrong();
  numbers_ = bytes + start;
}

void Table::copy_row(int64_t row, float* to) const {
  if (row < 0 || row >= rows_) fail(JE_E_BUNDLE, path_, ": has no row ", row, "; export the bundle again");
  const size_t width = static_cast<size_t>(width_), rows = static_cast<size_t>(rows_);
  const size_t first = static_cast<size_t>(row) * (is_by_column_ ? 1 : width);
  const size_t stride = is_by_column_ ? rows : 1;
  for (size_t i = 0; i < width; ++i) {
    const size_t at = first + i * stride;
    uint16_t half;
    if (is_half_) {
      std::memcpy(&half, numbers_ + at * 2, 2);
      to[i] = widened(half);
    } else {
      std::memcpy(to + i, numbers_ + at * 4, 4);
    }
  }
}

}  // namespace je
