// Files: read whole, mapped, or written atomically. Mirrors runtime/reading.py and atomic_write of runtime/files.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "janus_edge.h"

namespace je {

// Throw Error for errno: with `status`, the file's name and the advice, or JE_E_MEMORY if memory or file descriptors
// ran out.
[[noreturn]] void fail_reading(const std::string& path, je_status status, const char* advice);

// A regular file that is open for reading. Other kinds are refused: opening a FIFO would wait, and a device may never
// end.
class RegularFile {
 public:
  // Open a file. most: its largest size in bytes. Throws Error with `status` if it is not a regular file or is larger,
  // JE_E_MEMORY if memory or file descriptors ran out. The line names the file and ends with `advice`.
  RegularFile(const std::string& path, int64_t most, je_status status, const char* advice);
  ~RegularFile();
  RegularFile(const RegularFile&) = delete;

  int descriptor() const { return descriptor_; }
  size_t size() const { return size_; }  // in bytes, when it was opened

  // Read `count` bytes from `offset` on and return how many were read: fewer only if the file ends before. Any number
  // of threads at once. Throws Error.
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

// A limit that no file exceeds.
constexpr int64_t kAnySize = INT64_MAX;

// Return the content of a regular file of at most `most` bytes. Throws Error, see RegularFile.
std::vector<uint8_t> read_file(const std::string& path, je_status status, const char* advice, int64_t most = kAnySize);

// Write a file so that it appears whole or not at all. Return false and set errno on an error.
bool atomic_write(const std::string& path, const uint8_t* bytes, size_t size);

// Facts that change when a file changes: size in bytes, times of its content and inode in ns, inode number.
struct Stamp {
  int64_t size, modified_ns, changed_ns, inode;
};
inline bool operator==(const Stamp& a, const Stamp& b) {
  return a.size == b.size && a.modified_ns == b.modified_ns && a.changed_ns == b.changed_ns && a.inode == b.inode;
}

// Return the stamp of a regular file; nothing if there is none at this path.
std::optional<Stamp> stamp_of(const std::string& path);

// A file that is mapped into memory. Only the pages that are used are read.
class Mapped {
 public:
  Mapped() = default;

  // Map a file. Throws Error JE_E_BUNDLE, JE_E_MEMORY.
  explicit Mapped(const std::string& path);
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
