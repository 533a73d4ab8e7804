// libcuda.so.1 on the host: what cuda-bindings finds where there is no GPU, so that the real bindings run.
//
// Memory is the host's; work waits in one stream until something waits for it; kernels are C++, of the shapes that
// janus_edge.kernels.compile has, or functions of the program that asks for it (stub_compute). Every address of a copy
// or kernel must lie in memory that was given.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

constexpr int kOk = 0, kInvalid = 1, kNoMemory = 2, kNoImage = 200, kNoContext = 201, kNotFound = 500, kCaptured = 900;
constexpr size_t kCodes = 16384, kWidth = 2048, kParts = 4, kLatent = 4 * 48 * 48, kDim = 8;

using Work = std::function<void()>;
std::recursive_mutex mutex;
std::map<uint8_t*, size_t> blocks;
std::vector<Work> queue, recorded;
bool is_capturing = false;
double ticks = 0;
size_t held = 0;
thread_local std::vector<void*> contexts(1);  // the last is current
int context_of_gpu;

// A number of the environment.
int setting(const char* name, int otherwise) {
  const char* given = std::getenv(name);
  return given ? std::atoi(given) : otherwise;
}

void send(Work work) { (is_capturing ? recorded : queue).push_back(std::move(work)); }

void drain() {
  std::vector<Work> due;
  due.swap(queue);
  for (const Work& work : due) {
    ticks += 0.25;
    work();
  }
}

template <typename T>
T* at(const void* address, size_t count) {
  auto* start = static_cast<uint8_t*>(const_cast<void*>(address));
  auto found = blocks.upper_bound(start);
  const size_t size = count * sizeof(T);
  if (found == blocks.begin() || (--found)->first + found->second < start + size) {
    std::fprintf(stderr, "stub_cuda: %zu bytes at %p were not allocated\n", size, address);
    std::abort();
  }
  return reinterpret_cast<T*>(start);
}

float gumbel_of(uint64_t seed, int64_t position, uint32_t stream, size_t code) {
  uint32_t c[4] = {static_cast<uint32_t>(code / 4), static_cast<uint32_t>(position), stream, 0};
  uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
                              static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    std::copy(next, next + 4, c);
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  return static_cast<float>(-std::log(-std::log(((c[code % 4] >> 9) + 0.5) * 0x1p-23)));
}

// A launch: its programs, and the values of its parameters.
struct Launch {
  size_t programs;
  std::vector<uint64_t> values;
  template <typename T>
  T* array(size_t index, size_t count) const {
    return at<T>(reinterpret_cast<void*>(values[index]), count);
  }
  int32_t number(size_t index) const { return static_cast<int32_t>(values[index]); }
};

void sample(const Launch& launch) {
  const size_t images = launch.programs;
  const float* scales = launch.array<float>(4, 2);
  const int32_t top_k = *launch.array<int32_t>(5, 1);
  const bool guided = scales[0] != 1;
  const float* logits = launch.array<float>(0, kCodes * images * (guided ? 2 : 1));
  for (size_t p = 0; p < images; ++p) {
    std::vector<float> x(logits + p * kCodes, logits + (p + 1) * kCodes);
    const float* uncond = logits + (images + p) * kCodes;
    if (guided)
      for (size_t i = 0; i < kCodes; ++i) x[i] = uncond[i] + scales[0] * (x[i] - uncond[i]);
    const bool is_sound = std::all_of(x.begin(), x.end(), [](float each) { return std::fabs(each) <= 1e30f; });
    int64_t& code = launch.array<int64_t>(1, images)[p];
    if (!is_sound) {
      code = -1;
      continue;
    }
    if (scales[1] >= 1e-6f) {
      for (float& each : x) each /= scales[1];
      if (top_k > 0 && top_k < static_cast<int32_t>(kCodes)) {
        std::vector<float> sorted = x;
        std::nth_element(sorted.begin(), sorted.begin() + top_k - 1, sorted.end(), std::greater<float>());
        for (float& each : x)
          if (each < sorted[static_cast<size_t>(top_k) - 1]) each = -INFINITY;
      }
      const uint64_t seed = launch.array<uint64_t>(2, images)[p];
      const int64_t position = launch.array<int64_t>(3, images)[p];
      for (size_t i = 0; i < kCodes; ++i) x[i] += gumbel_of(seed, position, static_cast<uint32_t>(launch.values[6]), i);
    }
    code = std::max_element(x.begin(), x.end()) - x.begin();
  }
}

float half_to_float(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                              : std::ldexp(static_cast<float>(fraction), -24);
  return half >> 15 ? -size : size;
}

void look_up(const Launch& launch) {
  const size_t images = launch.programs;
  const auto rows = static_cast<size_t>(launch.number(8)), num = static_cast<size_t>(launch.number(9));
  const uint16_t* table = launch.array<uint16_t>(1, kCodes * kWidth);
  for (size_t p = 0; p < images; ++p) {
    const int64_t code = launch.array<int64_t>(0, images)[p];
    int64_t& position = launch.array<int64_t>(4, images)[p];
    if (position < static_cast<int64_t>(num))
      launch.array<int64_t>(3, images * num)[p * num + static_cast<size_t>(position)] = code;
    ++position;
    for (size_t row = p; row < rows; row += images) {
      int64_t& length = launch.array<int64_t>(6, rows)[row];
      launch.array<int64_t>(5, rows)[row] = length++;
      const uint16_t* entry = table + static_cast<size_t>(std::max<int64_t>(code, 0)) * kWidth;
      std::transform(entry, entry + kWidth, launch.array<float>(2, rows * kWidth) + row * kWidth, half_to_float);
    }
  }
}

void nearest_code(const Launch& launch) {
  const auto vectors = static_cast<size_t>(launch.number(3));
  const float* table = launch.array<float>(1, kCodes * kDim);
  for (size_t v = 0; v < vectors; ++v) {
    const float* x = launch.array<float>(0, vectors * kDim) + v * kDim;
    double length = 0, least = INFINITY;
    for (size_t e = 0; e < kDim; ++e) length += double{x[e]} * x[e];
    length = std::max(std::sqrt(length), 1e-12);
    for (size_t code = 0; code < kCodes; ++code) {
      double distance = 0;
      for (size_t e = 0; e < kDim; ++e) {
        const double entry = table[code * kDim + e];
        distance += entry * entry - 2 * x[e] / length * entry;
      }
      if (distance >= least) continue;
      least = distance;
      launch.array<int64_t>(2, vectors)[v] = static_cast<int64_t>(code);
    }
  }
}

void flow_update(const Launch& launch) {
  const size_t images = launch.programs, count = images * kLatent;
  float *z = launch.array<float>(0, count), *before = launch.array<float>(2, count);
  float* denoised = launch.array<float>(3, count);
  for (size_t p = 0; p < images; ++p) {
    int64_t& step = launch.array<int64_t>(5, images)[p];
    const float* row = launch.array<float>(4, static_cast<size_t>(step + 1) * 5) + step * 5;
    const float* v = launch.array<float>(1, count * (row[0] != 1 ? 2 : 1));
    for (size_t i = p * kLatent; i < (p + 1) * kLatent; ++i) {
      const float here = row[0] != 1 ? v[count + i] + row[0] * (v[i] - v[count + i]) : v[i];
      const float slope = row[1] != 0 ? here + row[1] * (here - before[i]) : here;
      z[i] += row[2] * slope;
      before[i] = here;
      denoised[i] = z[i] + row[3] * here;
    }
    launch.array<float>(6, images)[p] = row[4];
    ++step;
  }
}

void norm(const Launch& launch) {
  const auto rows = static_cast<size_t>(launch.number(5)), count = rows * kWidth;
  const uint32_t bits = static_cast<uint32_t>(launch.values[6]);
  float epsilon;
  std::memcpy(&epsilon, &bits, 4);
  const float *stream = launch.array<float>(0, count), *parts = launch.array<float>(1, kParts * count);
  const float* weights = launch.array<float>(2, kWidth);
  float *kept = launch.array<float>(3, count), *result = launch.array<float>(4, count);
  for (size_t row = 0; row < rows; ++row) {
    double squares = 0;
    std::vector<float> x(kWidth);
    for (size_t i = 0; i < kWidth; ++i) {
      const size_t at = row * kWidth + i;
      x[i] = stream[at];
      for (size_t part = 0; part < kParts; ++part) x[i] += parts[part * count + at];
      kept[at] = x[i];
      squares += double{x[i]} * x[i];
    }
    const auto inverse = static_cast<float>(1 / std::sqrt(squares / kWidth + epsilon));
    for (size_t i = 0; i < kWidth; ++i) result[row * kWidth + i] = x[i] * inverse * weights[i];
  }
}

// A kernel: what it does, and the bytes of each of its parameters ('8' or '4'), as its cubin has them.
struct Kernel {
  std::function<void(const Launch&)> run;
  std::string sizes;
};
std::map<std::string, Kernel> kernels{{"sample_kernel", {sample, "8888884488"}},
                                      {"look_up_kernel", {look_up, "888888844488"}},
                                      {"nearest_code_kernel", {nearest_code, "888488"}},
                                      {"flow_update_kernel", {flow_update, "8888888488"}},
                                      {"norm_kernel", {norm, "888884488"}}};

int in_context() { return contexts.back() ? kOk : kNoContext; }

using Locked = std::lock_guard<std::recursive_mutex>;

// A call that belongs to the current context, and no two at once.
#define GUARDED                               \
  const Locked lock(mutex);                   \
  if (const int code = in_context()) return code

int cuInit(unsigned) { return kOk; }
int cuDriverGetVersion(int* version) { return *version = 13000, kOk; }
int cuDeviceGetCount(int* count) { return *count = 1, kOk; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? kOk : kInvalid; }
int cuDeviceGetName(char* name, int size, int) {
  return std::snprintf(name, static_cast<size_t>(size), "Stub of libcuda"), kOk;
}
int cuDeviceGetAttribute(int* value, int which, int) {
  const int capability = setting("STUB_CAPABILITY", 120);
  *value = which == 75 ? capability / 10 : capability % 10;
  return kOk;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &context_of_gpu, kOk; }
int cuDevicePrimaryCtxRelease(int) { return kOk; }
int cuCtxSetCurrent(void* context) { return contexts.back() = context, kOk; }
int cuCtxGetCurrent(void** context) { return *context = contexts.back(), kOk; }
int cuCtxPushCurrent(void* context) { return contexts.push_back(context), kOk; }
int cuCtxPopCurrent(void** context) {
  if (context) *context = contexts.back();
  return contexts.pop_back(), kOk;
}
int cuStreamCreate(void** stream, unsigned) {
  GUARDED;
  return *stream = &queue, kOk;
}
int cuStreamDestroy(void*) { return in_context(); }
int cuStreamSynchronize(void*) {
  GUARDED;
  if (is_capturing) return kCaptured;
  return drain(), kOk;
}
size_t memory() { return static_cast<size_t>(setting("STUB_MEMORY_MB", 2048)) << 20; }
int cuMemGetInfo(size_t* free, size_t* total) {
  GUARDED;
  return *free = memory() - held, *total = memory(), kOk;
}
int cuMemAlloc(void** address, size_t size) {
  GUARDED;
  if (is_capturing) return kCaptured;
  if (held + size > memory()) return kNoMemory;
  *address = std::aligned_alloc(256, (size + 255) / 256 * 256);
  std::memset(*address, 0xAB, size);
  blocks[static_cast<uint8_t*>(*address)] = size;
  held += size;
  return kOk;
}
int cuMemFree(void* address) {
  GUARDED;
  if (is_capturing) return kCaptured;
  drain();
  const auto found = blocks.find(static_cast<uint8_t*>(address));
  if (found == blocks.end()) return kInvalid;
  std::memset(address, 0xDB, found->second);
  held -= found->second;
  blocks.erase(found);
  std::free(address);
  return kOk;
}
int cuMemAllocHost(void** address, size_t size) { return *address = std::calloc(1, size), in_context(); }
int cuMemFreeHost(void* address) { return std::free(address), in_context(); }
int cuMemsetD8Async(void* target, unsigned char value, size_t size, void*) {
  GUARDED;
  return send([=] { std::memset(at<uint8_t>(target, size), value, size); }), kOk;
}
int cuMemcpyHtoDAsync(void* target, const void* source, size_t size, void*) {
  GUARDED;
  return send([=] { std::memcpy(at<uint8_t>(target, size), source, size); }), kOk;
}
int cuMemcpyDtoHAsync(void* target, const void* source, size_t size, void*) {
  GUARDED;
  return send([=] { std::memcpy(target, at<uint8_t>(source, size), size); }), kOk;
}
int cuMemcpyDtoDAsync(void* target, const void* source, size_t size, void*) {
  GUARDED;
  return send([=] { std::memmove(at<uint8_t>(target, size), at<uint8_t>(source, size), size); }), kOk;
}
int cuEventCreate(void** event, unsigned) { return *event = new double(-1), in_context(); }
int cuEventRecord(void* event, void*) {
  GUARDED;
  return send([=] { *static_cast<double*>(event) = ticks; }), kOk;
}
int cuEventSynchronize(void*) {
  GUARDED;
  return drain(), kOk;
}
int cuEventDestroy(void* event) {
  GUARDED;
  drain();
  delete static_cast<double*>(event);
  return kOk;
}
int cuEventElapsedTime(float* ms, void* start, void* end) {
  return *ms = static_cast<float>(*static_cast<double*>(end) - *static_cast<double*>(start)), kOk;
}
int cuStreamBeginCapture(void*, int) {
  GUARDED;
  if (is_capturing) return kCaptured;
  return is_capturing = true, recorded.clear(), kOk;
}
// Whether a call of this name is to fail.
bool fails(const char* name) {
  const char* chosen = std::getenv("STUB_FAILS");
  return chosen && std::strcmp(chosen, name) == 0;
}
int cuStreamEndCapture(void*, void** graph) {
  GUARDED;
  is_capturing = false;
  if (fails("cuStreamEndCapture")) return kCaptured;
  return *graph = new std::vector<Work>(recorded), kOk;
}
int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long) {
  return *made = new std::vector<Work>(*static_cast<std::vector<Work>*>(graph)), in_context();
}
int cuGraphDestroy(void* graph) { return delete static_cast<std::vector<Work>*>(graph), in_context(); }
int cuGraphExecDestroy(void* graph) { return cuGraphDestroy(graph); }
int graph_launches = 0;
int cuGraphLaunch(void* graph, void*) {
  GUARDED;
  if (fails("cuGraphLaunch")) return kNoMemory;
  ++graph_launches;
  for (const Work& work : *static_cast<std::vector<Work>*>(graph)) send(work);
  return kOk;
}
int cuModuleLoadData(void** module, const void* image) {
  GUARDED;
  const auto* header = static_cast<const uint8_t*>(image);
  const bool is_cubin = std::memcmp(header, "\177ELF", 4) == 0 && header[18] == 190;  // EM_CUDA
  return *module = &queue, is_cubin ? kOk : kNoImage;
}
int cuModuleUnload(void*) { return in_context(); }
int cuModuleGetFunction(void** function, void*, const char* name) {
  GUARDED;
  const auto found = kernels.find(name);
  if (found == kernels.end()) return kNotFound;
  return *function = &found->second, kOk;
}
int cuFuncSetAttribute(void*, int, int) { return in_context(); }
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
                   void*, void** parameters, void** extra) {
  GUARDED;
  if (extra || y != 1 || z != 1 || threads % 32) return kInvalid;
  const auto* kernel = static_cast<Kernel*>(function);
  Launch launch{x, {}};
  for (const char size : kernel->sizes) {
    uint64_t value = 0;
    std::memcpy(&value, *parameters++, size == '8' ? 8 : 4);
    launch.values.push_back(value);
  }
  return send([=] { kernel->run(launch); }), kOk;
}
// CUlaunchConfig, with the one attribute that we set.
struct Attribute {
  int id, unused;
  int value[16];
};
struct Config {
  unsigned grid[3], block[3], shared;
  void* stream;
  const Attribute* attributes;
  unsigned count;
};
int cuLaunchKernelEx(const Config* config, void* function, void** parameters, void** extra) {
  const bool overlaps = config->count == 1 && config->attributes->id == 6 && config->attributes->value[0] == 1;
  if (!overlaps || config->block[1] != 1 || config->block[2] != 1) return kInvalid;
  const unsigned* grid = config->grid;
  return cuLaunchKernel(function, grid[0], grid[1], grid[2], config->block[0], 1, 1, config->shared, config->stream,
                        parameters, extra);
}
int cuGetErrorName(int code, const char** text) { return *text = code == kNoMemory ? "OUT_OF_MEMORY" : "ERROR", kOk; }
int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

#define ENTRY(name) {#name, reinterpret_cast<void*>(&name)}
const std::map<std::string, void*> kFunctions{
    ENTRY(cuInit), ENTRY(cuDriverGetVersion), ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet), ENTRY(cuDeviceGetName),
    ENTRY(cuDeviceGetAttribute), ENTRY(cuDevicePrimaryCtxRetain), ENTRY(cuDevicePrimaryCtxRelease),
    ENTRY(cuCtxSetCurrent), ENTRY(cuCtxGetCurrent), ENTRY(cuCtxPushCurrent), ENTRY(cuCtxPopCurrent),
    ENTRY(cuStreamCreate), ENTRY(cuStreamDestroy), ENTRY(cuStreamSynchronize), ENTRY(cuMemGetInfo), ENTRY(cuMemAlloc),
    ENTRY(cuMemFree), ENTRY(cuMemAllocHost), ENTRY(cuMemFreeHost), ENTRY(cuMemsetD8Async), ENTRY(cuMemcpyHtoDAsync),
    ENTRY(cuMemcpyDtoHAsync), ENTRY(cuMemcpyDtoDAsync), ENTRY(cuEventCreate), ENTRY(cuEventRecord),
    ENTRY(cuEventSynchronize), ENTRY(cuEventDestroy), ENTRY(cuEventElapsedTime), ENTRY(cuStreamBeginCapture),
    ENTRY(cuStreamEndCapture), ENTRY(cuGraphInstantiateWithFlags), ENTRY(cuGraphDestroy), ENTRY(cuGraphExecDestroy),
    ENTRY(cuGraphLaunch), ENTRY(cuModuleLoadData), ENTRY(cuModuleUnload), ENTRY(cuModuleGetFunction),
    ENTRY(cuFuncSetAttribute), ENTRY(cuLaunchKernel), ENTRY(cuLaunchKernelEx), ENTRY(cuGetErrorName),
    ENTRY(cuGetErrorString)};

}  // namespace

// How cuda-bindings finds the others; what is not there, it refuses only when it is called.
extern "C" __attribute__((visibility("default"))) int cuGetProcAddress_v2(const char* name, void** function, int,
                                                                          uint64_t, int* status) {
  const auto found = kFunctions.find(name);
  *function = found == kFunctions.end() ? nullptr : found->second;
  if (status) *status = *function ? 0 : 1;
  return *function ? kOk : kNotFound;
}

// How many captured graphs were launched.
extern "C" __attribute__((visibility("default"))) int stub_graph_launches() { return graph_launches; }

// Whether so many bytes at an address were given.
extern "C" __attribute__((visibility("default"))) int stub_holds(uint8_t* start, size_t size) {
  const Locked lock(mutex);
  auto found = blocks.upper_bound(start);
  return found != blocks.begin() && (--found)->first + found->second >= start + size;
}

// Let the program compute a kernel. It gets its name, its programs and the values of its parameters, whose bytes
// `sizes` has as in kernels.
extern "C" __attribute__((visibility("default"))) void stub_compute(const char* name, const char* sizes,
                                                                    void (*run)(const char*, unsigned,
                                                                                const uint64_t*)) {
  const Locked lock(mutex);
  const std::string own = name;
  kernels[own] = {[=](const Launch& launch) {
                    run(own.c_str(), static_cast<unsigned>(launch.programs), launch.values.data());
                  },
                  sizes};
}
