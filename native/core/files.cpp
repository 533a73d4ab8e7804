#include "files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "error.hpp"
#include "limits.hpp"

namespace je {

void fail_reading(const std::string& path, je_status status, const char* advice) {
  const int reason = errno;
  const char* said = std::strerror(reason);
  if (reason == ENOMEM) fail(JE_E_MEMORY, path, ": ", said, "; ", kFreeMemory);
  if (reason == EMFILE || reason == ENFILE) fail(JE_E_MEMORY, path, ": ", said, "; close some, or allow more");
  fail(status, path, ": ", said, "; ", advice);
}

RegularFile::RegularFile(const std::string& path, int64_t most, je_status status, const char* advice)
    : path_(path), status_(status), advice_(advice) {
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) failed();  // checked before opening, as opening a device may have effects
  check(path, most, found.st_mode, found.st_size);
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) failed();
  try {
    if (fstat(descriptor_, &found) != 0) failed();
    check(path, most, found.st_mode, found.st_size);
  } catch (...) {
    close(descriptor_);
    throw;
  }
  size_ = static_cast<size_t>(found.st_size);
}

RegularFile::~RegularFile() { close(descriptor_); }

void RegularFile::failed() const { fail_reading(path_, status_, advice_); }

void RegularFile::check(const std::string& path, int64_t most, unsigned kind, int64_t size) const {
  if (S_ISDIR(kind)) {
    errno = EISDIR;
    failed();
  }
  if (!S_ISREG(kind)) fail(status_, path, ": Not a regular file; ", advice_);
  if (size > most) fail(status_, path, ": Larger than ", most, " bytes, which is the most; ", advice_);
}

size_t RegularFile::read_at(uint64_t offset, void* to, size_t count) const {
  size_t at = 0;
  while (at < count) {
    const ssize_t more = pread(descriptor_, static_cast<char*>(to) + at, count - at, static_cast<off_t>(offset + at));
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) failed();
    if (more == 0) break;
    at += static_cast<size_t>(more);
  }
  return at;
}

std::vector<uint8_t> read_file(const std::string& path, je_status status, const char* advice, int64_t most) {
  const RegularFile file(path, most, status, advice);
  std::vector<uint8_t> bytes(file.size());
  bytes.resize(file.read_at(0, bytes.data(), bytes.size()));  // the file may have become shorter meanwhile
  return bytes;
}

std::optional<Stamp> stamp_of(const std::string& path) {
  struct stat found{};
  if (stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) return std::nullopt;
#ifdef __APPLE__
  const timespec modified = found.st_mtimespec, changed = found.st_ctimespec;
#else
  const timespec modified = found.st_mtim, changed = found.st_ctim;
#endif
  const auto ns = [](const timespec& time) { return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec; };
  return Stamp{static_cast<int64_t>(found.st_size), ns(modified), ns(changed), static_cast<int64_t>(found.st_ino)};
}

Mapped::Mapped(const std::string& path) {
  constexpr const char* kAdvice = "copy the bundle again";
  const RegularFile file(path, limits::kComponentBytes, JE_E_BUNDLE, kAdvice);
  if (file.size() == 0) fail(JE_E_BUNDLE, path, ": empty; ", kAdvice);
  void* data = mmap(nullptr, file.size(), PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (data == MAP_FAILED) fail_reading(path, JE_E_BUNDLE, kAdvice);
#ifdef MADV_HUGEPAGE
  madvise(data, file.size(), MADV_HUGEPAGE);  // if the kernel has huge pages (docs/cpu-kernels.md, "Pages")
#endif
  data_ = static_cast<const uint8_t*>(data);
  size_ = file.size();
}

Mapped::~Mapped() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

Mapped& Mapped::operator=(Mapped&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace je
