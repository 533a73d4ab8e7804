#include "cuda_driver.hpp"

#include <dlfcn.h>

#include "error.hpp"

namespace je {
namespace {

using Handle = void*;
constexpr int kVersion = 12000;  // of CUDA, whose functions are asked for
constexpr int kNoMemory = 2, kMajor = 75, kMinor = 76, kMostShared = 8, kNonBlocking = 1, kOverlaps = 6;
constexpr int kOfThisThread = 1;              // a capture, amid which other threads may call what waits for the GPU
constexpr unsigned kUsualShared = 48 * 1024;  // bytes that a program has without asking

// CUlaunchConfig, with one attribute.
struct Attribute {
  int id, unused;
  int value[16];
};
struct Config {
  unsigned programs[3], threads[3], shared_bytes;
  Handle stream;
  const Attribute* attributes;
  unsigned num_attributes;
};

// The functions of the driver that are called here.
struct Functions {
  int (*init)(unsigned);
  int (*device_count)(int*);
  int (*device)(int*, int);
  int (*device_name)(char*, int, int);
  int (*attribute)(int*, int, int);
  int (*retain)(Handle*, int);
  int (*release)(int);
  int (*push)(Handle);
  int (*pop)(Handle*);
  int (*make_stream)(Handle*, unsigned);
  int (*destroy_stream)(Handle);
  int (*wait)(Handle);
  int (*memory)(size_t*, size_t*);
  int (*allocate)(Address*, size_t);
  int (*free)(Address);
  int (*clear)(Address, unsigned char, size_t, Handle);
  int (*upload)(Address, const void*, size_t, Handle);
  int (*download)(void*, Address, size_t, Handle);
  int (*load)(Handle*, const void*);
  int (*unload)(Handle);
  int (*function)(Handle*, Handle, const char*);
  int (*set_function)(Handle, int, int);
  int (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**, void**);
  int (*launch_extended)(const Config*, Handle, void**, void**);
  int (*begin_capture)(Handle, int);
  int (*end_capture)(Handle, Handle*);
  int (*instantiate)(Handle*, Handle, unsigned long long);
  int (*destroy_graph)(Handle);
  int (*destroy_executable)(Handle);
  int (*launch_graph)(Handle, Handle);
  int (*error_name)(int, const char**);
  int (*error_text)(int, const char**);
};

using Finder = int (*)(const char*, void**, int, uint64_t, int*);

// Look a function up; nullptr where the driver has none of this name.
template <class Function>
void find(Finder finder, const char* name, Function& to) {
  void* found = nullptr;
  finder(name, &found, kVersion, 0, nullptr);
  if (found == nullptr) fail(JE_E_DEVICE, "the NVIDIA driver here has no ", name, "; install a newer one");
  to = reinterpret_cast<Function>(found);
}

Functions opened() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(JE_E_DEVICE, "no NVIDIA driver here; install one, or use the device cpu");
  const auto finder = reinterpret_cast<Finder>(dlsym(library, "cuGetProcAddress_v2"));
  if (finder == nullptr) fail(JE_E_DEVICE, "the NVIDIA driver here is older than CUDA 12; install a newer one");
  Functions found{};
  find(finder, "cuInit", found.init);
  find(finder, "cuDeviceGetCount", found.device_count);
  find(finder, "cuDeviceGet", found.device);
  find(finder, "cuDeviceGetName", found.device_name);
  find(finder, "cuDeviceGetAttribute", found.attribute);
  find(finder, "cuDevicePrimaryCtxRetain", found.retain);
  find(finder, "cuDevicePrimaryCtxRelease", found.release);
  find(finder, "cuCtxPushCurrent", found.push);
  find(finder, "cuCtxPopCurrent", found.pop);
  find(finder, "cuStreamCreate", found.make_stream);
  find(finder, "cuStreamDestroy", found.destroy_stream);
  find(finder, "cuStreamSynchronize", found.wait);
  find(finder, "cuMemGetInfo", found.memory);
  find(finder, "cuMemAlloc", found.allocate);
  find(finder, "cuMemFree", found.free);
  find(finder, "cuMemsetD8Async", found.clear);
  find(finder, "cuMemcpyHtoDAsync", found.upload);
  find(finder, "cuMemcpyDtoHAsync", found.download);
  find(finder, "cuModuleLoadData", found.load);
  find(finder, "cuModuleUnload", found.unload);
  find(finder, "cuModuleGetFunction", found.function);
  find(finder, "cuFuncSetAttribute", found.set_function);
  find(finder, "cuLaunchKernel", found.launch);
  find(finder, "cuLaunchKernelEx", found.launch_extended);
  find(finder, "cuStreamBeginCapture", found.begin_capture);
  find(finder, "cuStreamEndCapture", found.end_capture);
  find(finder, "cuGraphInstantiateWithFlags", found.instantiate);
  find(finder, "cuGraphDestroy", found.destroy_graph);
  find(finder, "cuGraphExecDestroy", found.destroy_executable);
  find(finder, "cuGraphLaunch", found.launch_graph);
  find(finder, "cuGetErrorName", found.error_name);
  find(finder, "cuGetErrorString", found.error_text);
  return found;
}

// Return the driver's functions. Throws Error JE_E_DEVICE if there is no driver.
const Functions& driver() {
  static const Functions found = opened();
  return found;
}

// Give the thread its current GPU back.
void pop() {
  Handle context = nullptr;
  driver().pop(&context);
}

}  // namespace

Gpu::Gpu(int ordinal) : ordinal_(ordinal) {
  const Functions& cuda = driver();
  int count = 0, major = 0, minor = 0;
  check(cuda.init(0), "cuInit");
  check(cuda.device_count(&count), "cuDeviceGetCount");
  if (ordinal >= count)
    fail(JE_E_DEVICE, "cuda:", ordinal, ": the number of GPUs here is ", count, "; give a smaller number");
  check(cuda.device(&device_, ordinal), "cuDeviceGet");
  check(cuda.attribute(&major, kMajor, device_), "cuDeviceGetAttribute");
  check(cuda.attribute(&minor, kMinor, device_), "cuDeviceGetAttribute");
  capability_ = 10 * major + minor;
  char name[256] = "";
  check(cuda.device_name(name, sizeof name, device_), "cuDeviceGetName");
  name_ = name;
  check(cuda.retain(&context_, device_), "cuDevicePrimaryCtxRetain");
  try {
    const Use use(*this);
    check(cuda.make_stream(&stream_, kNonBlocking), "cuStreamCreate");
  } catch (...) {
    cuda.release(device_);
    throw;
  }
}

Gpu::~Gpu() {
  const Functions& cuda = driver();
  if (cuda.push(context_) == 0) {
    for (const Handle module : modules_) cuda.unload(module);
    cuda.destroy_stream(stream_);
    pop();
  }
  cuda.release(device_);
}

Gpu::Use::Use(const Gpu& gpu) : gpu_(gpu), lock_(gpu.mutex_) {
  gpu.check(driver().push(gpu.context_), "cuCtxPushCurrent");
}

Gpu::Use::~Use() {
  driver().wait(gpu_.stream_);
  pop();
}

std::string Gpu::text() const { return join("cuda:", ordinal_, " (", name_, ")"); }

void Gpu::check(int code, const char* call) const {
  if (code == 0) return;
  const char *name = nullptr, *text = nullptr;
  driver().error_name(code, &name);
  driver().error_text(code, &text);
  fail(code == kNoMemory ? JE_E_MEMORY : JE_E_DEVICE, "cuda:", ordinal_, ": ", call, ": ",
       name == nullptr ? "unknown" : name, ": ", text == nullptr ? "unknown" : text);
}

Address Gpu::allocate(size_t bytes, const std::string& what) const {
  Address found = 0;
  const int code = driver().allocate(&found, bytes);
  if (code != kNoMemory) return check(code, "cuMemAlloc"), found;
  size_t free = 0, total = 0;
  check(driver().memory(&free, &total), "cuMemGetInfo");
  fail(JE_E_MEMORY, text(), ": out of memory: ", bytes / 1000000, " MB for ", what, " needed, ", free / 1000000, " of ",
       total / 1000000, " MB free; draw fewer images at once, or close other programs on the GPU");
}

void Gpu::free(Address address) const noexcept {
  const std::lock_guard<std::recursive_mutex> lock(mutex_);  // not amid another thread's capture
  if (driver().push(context_) != 0) return;
  driver().free(address);
  pop();
}

void Gpu::clear(Address to, size_t bytes) const { check(driver().clear(to, 0, bytes, stream_), "cuMemsetD8Async"); }

void Gpu::upload(Address to, const void* from, size_t bytes) const {
  check(driver().upload(to, from, bytes, stream_), "cuMemcpyHtoDAsync");
}

void Gpu::download(void* to, Address from, size_t bytes) const {
  check(driver().download(to, from, bytes, stream_), "cuMemcpyDtoHAsync");
}

void Gpu::launch(void* function, unsigned programs, unsigned threads, unsigned shared_bytes, void** values,
                 bool overlaps) const {
  if (!overlaps)
    return check(driver().launch(function, programs, 1, 1, threads, 1, 1, shared_bytes, stream_, values, nullptr),
                 "cuLaunchKernel");
  const Attribute early{kOverlaps, 0, {1}};
  const Config config{{programs, 1, 1}, {threads, 1, 1}, shared_bytes, stream_, &early, 1};
  check(driver().launch_extended(&config, function, values, nullptr), "cuLaunchKernelEx");
}

void* Gpu::captured(const std::function<void()>& work) const {
  const Functions& cuda = driver();
  Handle graph = nullptr, executable = nullptr;
  check(cuda.begin_capture(stream_, kOfThisThread), "cuStreamBeginCapture");
  try {
    work();
  } catch (...) {
    if (cuda.end_capture(stream_, &graph) == 0) cuda.destroy_graph(graph);
    throw;
  }
  check(cuda.end_capture(stream_, &graph), "cuStreamEndCapture");
  const int code = cuda.instantiate(&executable, graph, 0);
  cuda.destroy_graph(graph);
  check(code, "cuGraphInstantiateWithFlags");
  return executable;
}

void Gpu::launch_graph(void* graph) const { check(driver().launch_graph(graph, stream_), "cuGraphLaunch"); }

void Gpu::free_graph(void* graph) const noexcept {
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  if (graph == nullptr || driver().push(context_) != 0) return;
  driver().destroy_executable(graph);
  pop();
}

void RepeatedWork::send(const std::shared_ptr<const Gpu>& gpu, const std::function<void()>& work) {
  if (!is_new_ && !has_failed_) try {
      if (!graph_.is_made()) graph_ = GpuGraph(gpu, work);
      return graph_.launch();
    } catch (const Error&) {  // it runs without, too; an error of the work itself comes again
      graph_ = GpuGraph();
      has_failed_ = true;
    }
  is_new_ = false;
  work();
}

void Gpu::wait() const { check(driver().wait(stream_), "cuStreamSynchronize"); }

void* Gpu::function(const void* image, const std::string& symbol, unsigned shared_bytes) const {
  Handle module = nullptr, found = nullptr;
  check(driver().load(&module, image), "cuModuleLoadData");
  modules_.push_back(module);
  check(driver().function(&found, module, symbol.c_str()), "cuModuleGetFunction");
  if (shared_bytes > kUsualShared)
    check(driver().set_function(found, kMostShared, static_cast<int>(shared_bytes)), "cuFuncSetAttribute");
  return found;
}

}  // namespace je
