// NVIDIA's driver API, opened when it is first needed, and memory on a GPU. Mirrors runtime/cuda.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace je {

using Address = uint64_t;                            // of memory on a GPU
constexpr size_t kFloat = 4, kHalf = 2, kIndex = 8;  // bytes of a number

// One GPU with its one stream. Functions throw Error JE_E_DEVICE, or JE_E_MEMORY where memory is short. All but the
// destructor are called within a Use.
class Gpu {
 public:
  // Open the GPU of this number. Throws JE_E_DEVICE: there is none, or no driver.
  explicit Gpu(int ordinal);
  ~Gpu();
  Gpu(const Gpu&) = delete;

  // While it lives, the GPU is current in this thread, and no other thread uses it. At its end all work is done, as
  // after an error memory of the host may go, and the thread's current GPU is the one that it had before.
  class Use {
   public:
    explicit Use(const Gpu& gpu);
    ~Use();
    Use(const Use&) = delete;

   private:
    const Gpu& gpu_;
    std::lock_guard<std::recursive_mutex> lock_;
  };

  // The compute capability, times ten.
  int capability() const { return capability_; }
  // Return the name: "cuda:0 (NVIDIA H100)".
  std::string text() const;

  // what: names the memory in the error.
  Address allocate(size_t bytes, const std::string& what) const;
  void free(Address address) const noexcept;  // at any time

  // Send work to the stream. Memory of the host must live on until `wait` or the end of the Use.
  void clear(Address to, size_t bytes) const;
  void upload(Address to, const void* from, size_t bytes) const;
  void download(void* to, Address from, size_t bytes) const;
  // values: addresses of the kernel's arguments. overlaps: it may begin before the kernel before it has ended.
  void launch(void* function, unsigned programs, unsigned threads, unsigned shared_bytes, void** values,
              bool overlaps) const;

  // Return the launches that `work` sends, and nothing else, as a graph; they do not run now. Then send a graph's.
  void* captured(const std::function<void()>& work) const;
  void launch_graph(void* graph) const;
  void free_graph(void* graph) const noexcept;  // at any time

  // Wait for all work.
  void wait() const;

  // Load a function from a kernel's file. It stays loaded as long as the GPU is open.
  void* function(const void* image, const std::string& symbol, unsigned shared_bytes) const;

 private:
  void check(int code, const char* call) const;

  int ordinal_, device_ = 0, capability_ = 0;
  std::string name_;
  void *context_ = nullptr, *stream_ = nullptr;
  mutable std::vector<void*> modules_;
  mutable std::recursive_mutex mutex_;
};

// Memory on a GPU that is freed with this.
class GpuMemory {
 public:
  GpuMemory() = default;
  GpuMemory(std::shared_ptr<const Gpu> gpu, size_t bytes, const std::string& what)
      : gpu_(std::move(gpu)), address_(gpu_->allocate(bytes, what)), bytes_(bytes) {}
  ~GpuMemory() {
    if (gpu_) gpu_->free(address_);
  }
  GpuMemory(GpuMemory&& other) noexcept { *this = std::move(other); }
  GpuMemory& operator=(GpuMemory&& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  Address at(size_t offset = 0) const { return address_ + offset; }
  size_t size() const { return bytes_; }

 private:
  std::shared_ptr<const Gpu> gpu_;
  Address address_ = 0;
  size_t bytes_ = 0;
};

// Launches that are sent again as one, freed with this. What they read and write must live on.
class GpuGraph {
 public:
  GpuGraph() = default;
  GpuGraph(std::shared_ptr<const Gpu> gpu, const std::function<void()>& work)
      : gpu_(std::move(gpu)), graph_(gpu_->captured(work)) {}
  ~GpuGraph() {
    if (gpu_) gpu_->free_graph(graph_);
  }
  GpuGraph(GpuGraph&& other) noexcept { *this = std::move(other); }
  GpuGraph& operator=(GpuGraph&& other) noexcept {
    std::swap(gpu_, other.gpu_);
    std::swap(graph_, other.graph_);
    return *this;
  }

  bool is_made() const { return graph_ != nullptr; }
  void launch() const { gpu_->launch_graph(graph_); }

 private:
  std::shared_ptr<const Gpu> gpu_;
  void* graph_ = nullptr;
};

// Launches that come again: from the second time on they are sent as one, where that works.
class RepeatedWork {
 public:
  // work: sends the launches. It allocates nothing when it comes again.
  void send(const std::shared_ptr<const Gpu>& gpu, const std::function<void()>& work);

 private:
  GpuGraph graph_;
  bool is_new_ = true, has_failed_ = false;
};

}  // namespace je
