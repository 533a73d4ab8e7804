#include "files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "error.hpp"

namespace je {
namespace {

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : number_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  operator int() const { return number_; }

 private:
  int number_;
};

}  // namespace

void fail_reading(const std::string& path, je_status status, const char* advice) {
  const int reason = errno;
  const char* said = std::strerror(reason);
  if (reason == ENOMEM) fail(JE_E_MEMORY, path, ": ", said, "; ", kFreeMemory);
  if (reason == EMFILE || reason == ENFILE) fail(JE_E_MEMORY, path, ": ", said, "; close some, or allow more");
  fail(status, path, ": ", said, "; ", advice);
}

std::vector<uint8_t> read_file(const std::string& path, je_status status, const char* advice) {
  const auto failed = [&] { fail_reading(path, status, advice); };
  const Descriptor file(path);
  struct stat found{};
  if (file < 0 || fstat(file, &found) != 0) failed();
  std::vector<uint8_t> bytes(static_cast<size_t>(found.st_size));
  size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t count = read(file, bytes.data() + at, bytes.size() - at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) failed();
    if (count == 0) break;  // it became shorter meanwhile
    at += static_cast<size_t>(count);
  }
  bytes.resize(at);
  if (at == 0 && S_ISDIR(found.st_mode)) {
    errno = EISDIR;
    failed();
  }
  return bytes;
}

namespace {

bool is_synced(int file) { return fsync(file) == 0 || errno == EINVAL || errno == ENOTSUP; }

}  // namespace

bool write_whole(const std::string& path, const uint8_t* bytes, size_t size) {
  const size_t slash = path.find_last_of('/');
  const size_t name = slash == std::string::npos ? 0 : slash + 1;
  std::string part = path.substr(0, name) + ".je-" + std::to_string(getpid()) + "-";  // short: names have a limit
  part += std::to_string(reinterpret_cast<uintptr_t>(&part)) + ".part";
  std::FILE* file = std::fopen(part.c_str(), "wbx");
  if (file == nullptr) return false;
  struct stat before{};
  bool is_there = std::fwrite(bytes, 1, size, file) == size && std::fflush(file) == 0;
  if (stat(path.c_str(), &before) == 0)  // which some file systems do not have
    static_cast<void>(fchmod(fileno(file), before.st_mode & 07777) == 0);
  is_there &= is_synced(fileno(file));  // its bytes are on the disk before its name is
  is_there &= std::fclose(file) == 0;
  is_there = is_there && std::rename(part.c_str(), path.c_str()) == 0;
  const int reason = errno;
  if (is_there) {  // and its name is on the disk before anything that follows
    const Descriptor folder(name == 0 ? "." : path.substr(0, name));
    if (folder >= 0) is_synced(folder);
  } else {
    std::remove(part.c_str());
  }
  errno = reason;
  return is_there;
}

std::optional<Stamp> stamp_of(const std::string& path) {
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) return std::nullopt;
#ifdef __APPLE__
  const timespec modified = found.st_mtimespec, changed = found.st_ctimespec;
#else
  const timespec modified = found.st_mtim, changed = found.st_ctim;
#endif
  const auto ns = [](const timespec& time) { return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec; };
  return Stamp{static_cast<int64_t>(found.st_size), ns(modified), ns(changed), static_cast<int64_t>(found.st_ino)};
}

Mapped::Mapped(const std::string& path) {
  const auto failed = [&] { fail_reading(path, JE_E_BUNDLE, "copy the bundle again"); };
  const Descriptor file(path);
  struct stat found{};
  if (file < 0 || fstat(file, &found) != 0) failed();
  if (found.st_size == 0) fail(JE_E_BUNDLE, path, ": empty; copy the bundle again");
  void* data = mmap(nullptr, static_cast<size_t>(found.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) failed();
  data_ = static_cast<const uint8_t*>(data);
  size_ = static_cast<size_t>(found.st_size);
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
