#include "hash_cache.hpp"

#include <filesystem>
#include <optional>

#include "json_reader.hpp"
#include "notes.hpp"
#include "threads.hpp"

namespace je {
namespace {

namespace fs = std::filesystem;

// Return the file that remembers what was checked of a bundle; nothing if there is no place for it.
std::optional<fs::path> checked_note(const std::string& folder) {
  std::error_code wrong;
  const fs::path real = fs::canonical(folder, wrong);
  return wrong ? std::nullopt : note_of("checked", real.native());
}

}  // namespace

std::map<std::string, Stamp> check_changed(const std::string& folder, const std::vector<FileInfo>& files,
                                           const std::function<void(const FileInfo&)>& check, bool check_all) {
  const std::optional<fs::path> note = checked_note(folder);
  Tree before(check_all ? nlohmann::json::object() : read_note(note)), after(nlohmann::json::object());
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
  if (found != known) write_note(note, found);
  return stamps;
}

}  // namespace je
