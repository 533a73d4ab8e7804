#include "output.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <thread>

#include "error.hpp"
#include "files.hpp"

namespace je {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kReader(10);  // the longest wait for a program that reads a pipe
constexpr int kMostLinks = 40;               // the number of links that Linux follows

constexpr std::array<std::string_view, 25> kOtherImages = {
    ".avif", ".bmp", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2",  ".jpe", ".jpeg",
    ".jpg",  ".jxl", ".pgm", ".pnm", ".ppm", ".psd",  ".qoi",  ".svg", ".tga", ".tif",  ".tiff", ".webp"};

[[noreturn]] void fail_writing(const std::string& path) {
  fail(JE_E_OUTPUT, path, ": cannot be written: ", std::strerror(errno), "; choose another place");
}

// Blocks SIGPIPE on this thread, so that a pipe without a reader is an error and does not end the program.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    was_pending_ = is_pending();
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSigpipe() {
    int number = 0;
    if (!was_pending_ && is_pending()) sigwait(&pipe_, &number);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;

 private:
  static bool is_pending() {
    sigset_t pending;
    return sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
  }
  sigset_t pipe_{}, before_{};
  bool was_pending_ = false;
};

// Open a pipe or device for writing. A pipe opens only when a program reads it; the wait is limited to kReader.
int open_through(const std::string& path) {
  const auto end = std::chrono::steady_clock::now() + kReader;
  for (;;) {
    const int file = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (file >= 0) return file;
    if (errno != ENXIO) fail_writing(path);
    if (std::chrono::steady_clock::now() > end)
      fail(JE_E_OUTPUT, path, ": no program reads this pipe; start one first");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void write_through(const std::string& path, const uint8_t* bytes, size_t size) {
  const NoSigpipe guard;
  const int file = open_through(path);
  fcntl(file, F_SETFL, fcntl(file, F_GETFL) & ~O_NONBLOCK);
  size_t at = 0;
  while (at < size) {
    const ssize_t count = write(file, bytes + at, size - at);
    if (count > 0) at += static_cast<size_t>(count);
    if (count < 0 && errno != EINTR) break;
  }
  const int reason = errno;
  const bool is_closed = close(file) == 0;
  if (at < size) errno = reason;
  if (at < size || !is_closed) fail_writing(path);
}

// Return the path that a link leads to, through up to kMostLinks links. The target need not exist.
std::string target_of(const std::string& path) {
  fs::path found = path;
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(found, error); ++i)
    found = found.parent_path() / fs::read_symlink(found, error);
  return found;
}

}  // namespace

void check_is_png(const std::string& path) {
  std::string suffix = fs::path(path).extension();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char each) { return static_cast<char>(std::tolower(each)); });
  if (std::find(kOtherImages.begin(), kOtherImages.end(), suffix) != kOtherImages.end())
    fail(JE_E_ARGUMENT, path, ": ", suffix, " is not written; name a .png file");
}

void write_output(const std::string& path, const uint8_t* bytes, size_t size) {
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) {
    if (errno != ENOENT) fail_writing(path);
    found.st_mode = 0;
  }
  if (S_ISDIR(found.st_mode)) fail(JE_E_OUTPUT, path, ": is a folder; name a file in it");
  if (S_ISBLK(found.st_mode) || S_ISSOCK(found.st_mode)) fail(JE_E_OUTPUT, path, ": is a disk or socket; name a file");
  if (S_ISFIFO(found.st_mode) || S_ISCHR(found.st_mode))
    write_through(path, bytes, size);
  else if (!atomic_write(target_of(path), bytes, size))
    fail_writing(path);
}

}  // namespace je
