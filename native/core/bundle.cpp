#include "bundle.hpp"

#include <filesystem>

#include "contract.hpp"
#include "error.hpp"
#include "hash_cache.hpp"
#include "limits.hpp"
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

std::vector<uint8_t> read_checked(const std::string& folder, const FileInfo& file, int64_t most) {
  std::vector<uint8_t> bytes = read_file(folder + "/" + file.file, JE_E_BUNDLE, kCopy, most);
  compare(folder + "/" + file.file, sha256(bytes.data(), bytes.size()), file.sha256);
  return bytes;
}

std::vector<FileInfo> files_of(const ComponentInfo& part) {
  if (part.data.file.empty()) return {part.file};
  return {part.file, part.data};
}

// Return the files that are hashed only if their stamps changed. tokenizer.json is not among them: it is read whole and
// hashed at every start.
std::vector<FileInfo> files_of(const Manifest& manifest) {
  std::vector<FileInfo> found;
  for (const KernelInfo& each : manifest.kernels) found.push_back(each.file);
  if (!manifest.tokenizer_bin.file.empty()) found.push_back(manifest.tokenizer_bin);
  for (const auto& [name, part] : manifest.components)
    for (FileInfo& each : files_of(part)) found.push_back(std::move(each));
  return found;
}

}  // namespace

uint64_t Bundle::num_bytes(const std::string& name) const {
  uint64_t total = 0;
  for (const FileInfo& file : files_of(component(name)))
    if (const auto found = stamps.find(file.file); found != stamps.end())
      total += static_cast<uint64_t>(found->second.size);
  return total;
}

void Bundle::check_unchanged(const std::string& name) const {
  for (const FileInfo& file : files_of(component(name))) {
    const std::string at = folder + "/" + file.file;
    const std::optional<Stamp> stamp = stamp_of(at);
    const auto before = stamps.find(file.file);
    if (stamp && before != stamps.end() && *stamp == before->second) continue;
    if (stamp && file_sha256(at) == file.sha256) continue;  // a copy of the same file was put in its place
    fail(JE_E_BUNDLE, at, ": is another file since the bundle was opened; open the bundle again");
  }
}

Bundle open_bundle(const std::string& folder, bool check_all) {
  if (folder.empty()) fail(JE_E_BUNDLE, "no bundle is named; give the folder of a bundle");
  Bundle bundle;
  bundle.folder = folder;
  const std::vector<uint8_t> raw =
      read_file(bundle.manifest_file(), JE_E_BUNDLE, "is it the folder of a bundle?", limits::kManifestBytes);
  bundle.sha256 = sha256(raw.data(), raw.size());
  const std::vector<uint8_t> checksum =
      read_file(folder + "/manifest.sha256", JE_E_BUNDLE, kCopy, limits::kChecksumBytes);
  compare(bundle.manifest_file(), bundle.sha256 + "\n", {checksum.begin(), checksum.end()});
  bundle.manifest = parse_manifest({reinterpret_cast<const char*>(raw.data()), raw.size()}, bundle.manifest_file());
  const Manifest& manifest = bundle.manifest;
  check_contract(manifest, bundle.manifest_file());
  if (manifest.tokenizer_bin.file.empty())
    fail(JE_E_BUNDLE, bundle.manifest_file(), ": of a version without tokenizer.bin; export the bundle again");
  const auto check = [&](const FileInfo& file) {
    compare(folder + "/" + file.file, file_sha256(folder + "/" + file.file), file.sha256);
  };
  bundle.stamps = check_changed(folder, files_of(manifest), check, check_all);
  read_checked(folder, manifest.tokenizer, limits::kTokenizerBytes);
  const std::vector<uint8_t> tables = read_checked(folder, manifest.tokenizer_bin, limits::kTokenizerBinBytes);
  try {
    bundle.encoder = std::make_unique<PromptEncoder>(Tokenizer(tables), manifest.prompt);
  } catch (const std::runtime_error& error) {
    fail(JE_E_BUNDLE, folder, "/", error.what());
  }
  if (bundle.encoder->tokenizer().num_tokens() > manifest.sizes.vocab_size)
    fail(JE_E_BUNDLE, folder, "/", manifest.tokenizer_bin.file, ": has ", bundle.encoder->tokenizer().num_tokens(),
         " tokens, the model ", manifest.sizes.vocab_size, " rows for them; export the bundle again");
  bundle.folder = std::filesystem::absolute(folder).string();  // a process may change its folder before an engine opens
  for (const auto& [name, shape] : table_shapes(manifest)) {
    const ComponentInfo& part = manifest.components.at(name);
    bundle.tables[name] =
        std::make_shared<const Table>(bundle.path(part), shape.rows, shape.width, part.weights == "float16");
  }
  return bundle;
}

}  // namespace je
