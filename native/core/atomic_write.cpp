// Files that appear whole or not at all, by the rules of docs/files.md. Mirrors runtime/files.py.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "files.hpp"

namespace je {
namespace {

namespace fs = std::filesystem;

constexpr const char kPrefix[] = ".janus-edge-part-", kMarker[] = "owner.json", kNew[] = "new";
constexpr const char kBeginning[] = R"({"by": "janus-edge", )";
constexpr auto kSettled = std::chrono::seconds(2);  // the longest wait for a lock; it is held for milliseconds

// A file descriptor that is closed at the end of its scope. Negative: the file could not be opened.
class Open {
 public:
  Open(const fs::path& path, int flags, mode_t mode = 0) : number_(open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~Open() { shut(); }
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
  operator int() const { return number_; }
  bool shut() {
    const int number = std::exchange(number_, -1);
    return number < 0 || close(number) == 0;
  }

 private:
  int number_;
};

enum class Lock { taken, busy, none };  // none: the file system does not support locks

Lock try_lock(int descriptor) {
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return Lock::taken;
  return errno == EWOULDBLOCK ? Lock::busy : Lock::none;
}

// Return the names in a folder. std::filesystem's iterator would end the process if no memory is left.
std::vector<std::string> names_in(const fs::path& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> opened(opendir(folder.c_str()), closedir);
  std::vector<std::string> found;
  for (const dirent* each; opened && (each = readdir(opened.get())) != nullptr;)
    if (const std::string_view name(each->d_name); name != "." && name != "..") found.emplace_back(name);
  return found;
}

// Remove a private folder with all it holds. The marker goes last, so that a removal that is killed can be continued.
void remove_private(const fs::path& room) {
  std::error_code ignored;
  for (const std::string& name : names_in(room))
    if (name != kMarker) fs::remove_all(room / name, ignored);
  fs::remove(room / kMarker, ignored);
  fs::remove(room, ignored);
}

// Return true if janus-edge wrote the marker, for a file. A marker for a folder is left to Python, which may have to
// restore the folder that was replaced.
bool is_of_a_file(const fs::path& room, int marker) {
  char text[4096];
  const ssize_t size = read(marker, text, sizeof text);
  if (size < 0) return false;
  const std::string_view raw(text, static_cast<size_t>(size)), begun(kBeginning);
  const nlohmann::json found = nlohmann::json::parse(text, text + size, nullptr, false);
  if (!found.is_object())  // a marker without other files may be half written
    return raw.substr(0, begun.size()) == begun.substr(0, raw.size()) && names_in(room).size() == 1;
  const auto by = found.find("by"), target = found.find("target");
  return by != found.end() && *by == "janus-edge" && target != found.end() && target->is_null();
}

// Remove the private folders that killed writers left. They are known by their markers.
void sweep(const fs::path& parent) {
  std::error_code ignored;
  for (const std::string& name : names_in(parent)) {
    if (name.rfind(kPrefix, 0) != 0) continue;
    const fs::path room = parent / name;
    if (rmdir(room.c_str()) == 0)
      continue;  // it was empty: its writer was killed before it wrote the marker, or after it removed it
    const Open marker(room / kMarker, O_RDWR | O_NOFOLLOW);
    if (marker >= 0 && !fs::is_symlink(room, ignored) && is_of_a_file(room, marker) && try_lock(marker) == Lock::taken)
      remove_private(room);
  }
}

// A private folder of this process, locked while it is used.
class Private {
 public:
  explicit Private(const fs::path& parent) {
    const Open settled(parent, O_RDONLY);  // locked, so that no process sweeps before the private folder has its lock
    const auto end = std::chrono::steady_clock::now() + kSettled;
    while (settled >= 0 && try_lock(settled) == Lock::busy && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    sweep(parent);
    room_ = (parent / (std::string(kPrefix) + "XXXXXX")).string();
    if (mkdtemp(room_.data()) == nullptr) room_.clear();
    try {
      if (is_there() && !mark()) clear();
    } catch (...) {  // no memory left
      clear();
      throw;
    }
  }
  ~Private() { clear(); }
  Private(const Private&) = delete;
  Private& operator=(const Private&) = delete;

  bool is_there() const { return !room_.empty(); }
  fs::path part() const { return fs::path(room_) / kNew; }

 private:
  bool mark() {
    folder_ = open(room_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (folder_ < 0) return false;
    lock_ = openat(folder_, kMarker, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (lock_ < 0) return false;
    try_lock(lock_);
    const std::string words =
        kBeginning + std::string(R"("process": )") + std::to_string(getpid()) + R"(, "target": null})";
    const ssize_t count = write(lock_, words.data(), words.size());
    if (count >= 0 && count < static_cast<ssize_t>(words.size())) errno = ENOSPC;
    return count == static_cast<ssize_t>(words.size());
  }

  void clear() {
    const int reason = errno;  // of the failure before; clearing away must allocate no memory
    for (const char* name : {kNew, kMarker})
      if (folder_ >= 0) unlinkat(folder_, name, 0);
    if (is_there()) rmdir(room_.c_str());
    for (int* each : {&lock_, &folder_})
      if (*each >= 0) close(std::exchange(*each, -1));
    room_.clear();
    errno = reason;
  }

  std::string room_;
  int folder_ = -1, lock_ = -1;
};

// Return true if the file is on disk. Some file systems cannot sync, or need not.
bool synced(int descriptor) { return fsync(descriptor) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EBADF; }

// Write a new file and sync it. before: the file that it will replace, whose permissions it gets. Return false and set
// errno on an error.
bool write_synced(const fs::path& path, const fs::path& before, const uint8_t* bytes, size_t size) {
  Open file(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
  if (file < 0) return false;
  struct stat found{};
  if (stat(before.c_str(), &found) == 0)  // some file systems have no permissions
    static_cast<void>(fchmod(file, found.st_mode & 07777) == 0);
  for (size_t at = 0; at < size;) {
    const ssize_t count = write(file, bytes + at, size - at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    at += static_cast<size_t>(count);
  }
  return synced(file) && file.shut();
}

}  // namespace

bool atomic_write(const std::string& path, const uint8_t* bytes, size_t size) {
  const fs::path target(path), parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  const Private room(parent);
  if (!room.is_there() || !write_synced(room.part(), target, bytes, size)) return false;
  if (std::rename(room.part().c_str(), path.c_str()) != 0) return false;
  const Open folder(parent, O_RDONLY);
  return folder < 0 || synced(folder);
}

}  // namespace je
