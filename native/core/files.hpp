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

// Throws Error with `status` and the file's name, or JE_E_MEMORY; `advice` ends the line.
std::vector<uint8_t> read_file(const std::string& path, je_status status, const char* advice);

// The file gets its own name only when all of it is there. False, with errno, where it cannot be.
bool write_whole(const std::string& path, const uint8_t* bytes, size_t size);

// What changes when a file does: size, times of content and inode in ns, inode.
struct Stamp {
  int64_t size, modified_ns, changed_ns, inode;
};
std::optional<Stamp> stamp_of(const std::string& path);

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
