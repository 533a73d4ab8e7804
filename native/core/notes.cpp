#include "notes.hpp"

#ifndef _WIN32
#include <pwd.h>
#include <unistd.h>
#endif

#include <cstdlib>

#include "error.hpp"
#include "files.hpp"
#include "json_reader.hpp"
#include "limits.hpp"
#include "sha256.hpp"

namespace je {
namespace {

namespace fs = std::filesystem;

constexpr int kDepth = 8;  // of lists and objects in a note; ours have three

std::string value_of(const char* variable) {
  const char* found = std::getenv(variable);
  return found == nullptr ? "" : found;
}

// Return HOME, or without it what the user database says; "" if neither knows.
std::string user_folder() {
  if (std::string home = value_of("HOME"); !home.empty()) return home;
#ifndef _WIN32
  std::vector<char> room(1 << 14);
  passwd entry{}, *found = nullptr;
  if (getpwuid_r(getuid(), &entry, room.data(), room.size(), &found) == 0 && found != nullptr &&
      found->pw_dir != nullptr)
    return found->pw_dir;
#endif
  return "";
}

// Return the user's folder: JANUS_EDGE_HOME if it is set, else janus-edge in the cache folder; "" if there is none.
fs::path home_folder() {
  if (const std::string home = value_of("JANUS_EDGE_HOME"); !home.empty()) return home;
  if (const std::string cache = value_of("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "janus-edge";
  const std::string user = user_folder();
  return user.empty() ? fs::path() : fs::path(user) / ".cache" / "janus-edge";
}

}  // namespace

std::optional<fs::path> note_of(const char* folder, const std::string& what) {
  const fs::path home = home_folder();
  if (home.empty()) return std::nullopt;
  const std::string hash = sha256(reinterpret_cast<const uint8_t*>(what.data()), what.size());
  return home / folder / (hash.substr(0, 32) + ".json");
}

nlohmann::json read_note(const std::optional<fs::path>& note) {
  try {
    if (note) {
      const std::vector<uint8_t> raw = read_file(*note, JE_E_BUNDLE, "", limits::kNoteBytes);
      bool is_deep = false;
      const auto look = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        is_deep |= depth > kDepth;
        return depth <= kDepth;  // what lies deeper is left out
      };
      Tree found(nlohmann::json::parse(raw.begin(), raw.end(), look, false));
      if (is_deep) return nlohmann::json::object();
      if (found.root.is_object()) return std::move(found.root);
    }
  } catch (const Error&) {  // there is no note yet
  }
  return nlohmann::json::object();
}

void write_note(const std::optional<fs::path>& note, const nlohmann::json& found) {
  if (!note) return;
  // errors are ignored: what the note holds is found out again at the next run
  std::error_code ignored;
  fs::create_directories(note->parent_path(), ignored);
  const std::string text = found.dump();
  atomic_write(*note, reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

}  // namespace je
