// Files: read whole, mapped, written whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "janus_edge.h"

namespace je {

// By errno: throws Error with `status`, the file's name and the advice, or JE_E_MEMORY where the process ran out.
[[noreturn]] void fail_reading(const std::string& path, je_status status, const char* advice);

// A regular file, open to be read: opening a FIFO would wait, and a device may never end.
class RegularFile {
 public:
  // Throws Error with `status` and the file's name if it is none, or has more than `most` bytes, JE_E_MEMORY where the
  // process ran out; `advice` ends the line.
  RegularFile(const std::string& path, int64_t most, je_status status, const char* advice);
  ~RegularFile();
  RegularFile(const RegularFile&) = delete;

  int descriptor() const { return descriptor_; }
  size_t size() const { return size_; }  // as it was opened

  // Up to `count` bytes from `offset` on: fewer only where the file ends. Any number of threads at once. Throws Error.
  size_t read_at(uint64_t offset, void* to, size_t count) const;

 private:
  [[noreturn]] void failed() const;
  void check(const std::string& path, int64_t most, unsigned kind, int64_t size) const;

  std::string path_;
  je_status status_;
  const char* advice_;
  int descriptor_ = -1;
  size_t size_ = 0;
};

constexpr int64_t kAnySize = INT64_MAX;

// The content of a regular file of at most `most` bytes. Throws Error, see RegularFile.
std::vector<uint8_t> read_file(const std::string& path, je_status status, const char* advice, int64_t most = kAnySize);

// The file gets its own name only when all of it is there. False, with errno, where it cannot be.
bool atomic_write(const std::string& path, const uint8_t* bytes, size_t size);

// What changes when a file does: size, times of content and inode in ns, inode.
struct Stamp {
  int64_t size, modified_ns, changed_ns, inode;
};
inline bool operator==(const Stamp& a, const Stamp& b) {
  return a.size == b.size && a.modified_ns == b.modified_ns && a.changed_ns == b.changed_ns && a.inode == b.inode;
}
std::optional<Stamp> stamp_of(const std::string& path);  // nothing: there is no regular file

// A file in memory, of which only what is used is read.
class Mapped {
 public:
  Mapped() = default;
  explicit Mapped(const std::string& path);  // throws Error JE_E_BUNDLE, JE_E_MEMORY
  ~Mapped();
  Mapped(Mapped&& other) noexcept { *this = static_cast<Mapped&&>(other); }
  Mapped& operator=(Mapped&& other) noexcept;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace je
