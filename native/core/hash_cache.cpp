#include "hash_cache.hpp"

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "error.hpp"
#include "files.hpp"
#include "json_reader.hpp"
#include "limits.hpp"
#include "sha256.hpp"
#include "threads.hpp"

namespace je {
namespace {

namespace fs = std::filesystem;

std::string value_of(const char* variable) {
  const char* found = std::getenv(variable);
  return found == nullptr ? "" : found;
}

// Return the user's folder: JANUS_EDGE_HOME if it is set, else janus-edge in the cache folder; "" if there is none.
fs::path home_folder() {
  if (const std::string home = value_of("JANUS_EDGE_HOME"); !home.empty()) return home;
  if (const std::string cache = value_of("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "janus-edge";
  const std::string user = value_of("HOME");
  return user.empty() ? fs::path() : fs::path(user) / ".cache" / "janus-edge";
}

// Return the file that remembers what was checked of a bundle; nothing if there is no place for it.
std::optional<fs::path> note_of(const std::string& folder) {
  std::error_code wrong;
  const fs::path home = home_folder(), real = fs::canonical(folder, wrong);
  if (home.empty() || wrong) return std::nullopt;
  const std::string& name = real.native();
  const std::string hash = sha256(reinterpret_cast<const uint8_t*>(name.data()), name.size());
  return home / "checked" / (hash.substr(0, 32) + ".json");
}

nlohmann::json read_note(const fs::path& note) {
  try {
    const std::vector<uint8_t> raw = read_file(note, JE_E_BUNDLE, "", limits::kNoteBytes);
    nlohmann::json found = nlohmann::json::parse(raw.begin(), raw.end(), nullptr, false);
    if (found.is_object()) return found;
  } catch (const Error&) {  // there is no note yet
  }
  return nlohmann::json::object();
}

}  // namespace

std::map<std::string, Stamp> check_changed(const std::string& folder, const std::vector<FileInfo>& files,
                                           const std::function<void(const FileInfo&)>& check, bool check_all) {
  const std::optional<fs::path> note = note_of(folder);
  Tree before(note && !check_all ? read_note(*note) : nlohmann::json::object()), after(nlohmann::json::object());
  const nlohmann::json& known = before.root;
  nlohmann::json& found = after.root;
  std::map<std::string, Stamp> stamps;
  std::vector<FileInfo> changed;
  for (const FileInfo& each : files) {
    // taken before the hash, so that a change while the file is hashed is noticed at the next start
    const std::optional<Stamp> stamp = stamp_of(folder + "/" + each.file);
    if (stamp) {
      found[each.file] = {each.sha256, {stamp->size, stamp->modified_ns, stamp->changed_ns, stamp->inode}};
      stamps[each.file] = *stamp;
    }
    const auto one = known.find(each.file);
    if (!stamp || one == known.end() || *one != found[each.file]) changed.push_back(each);
  }
  in_parallel(changed.size(), [&](size_t index) { check(changed[index]); });
  if (!note || found == known) return stamps;
  // errors are ignored: if the note cannot be written, the next start hashes again
  std::error_code ignored;
  fs::create_directories(note->parent_path(), ignored);
  const std::string text = found.dump();
  atomic_write(*note, reinterpret_cast<const uint8_t*>(text.data()), text.size());
  return stamps;
}

}  // namespace je
