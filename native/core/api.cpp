// The functions of janus_edge.h but those on image files. They take structs of older and newer programs. No exception
// leaves this file.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "guard.hpp"
#include "request.hpp"

struct je_session {
  std::shared_ptr<je::Engines> engines;
  std::string device, onnxruntime;
};

namespace je {

// Who is in je_job_next with a job: nobody; a thread; or a thread that frees the job when it leaves.
enum class Use { kNone, kBusy, kGivenUp };

}  // namespace je

struct je_job {
  std::shared_ptr<je::Engines> engines;
  je::Cancel cancel;
  std::unique_ptr<je::Task> task;
  je::Events events;
  je::Event last_event;  // the pointers of the caller's je_event point into it
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  je_status ended = JE_OK;
  std::string reason;
  std::atomic<je::Use> use{je::Use::kNone};
};

namespace je {
namespace {

// The least sizes of structs, in bytes. A smaller struct was not initialized.
constexpr uint32_t kLeastOptions = offsetof(je_options, num_threads) + sizeof(int32_t);
constexpr uint32_t kLeastRequest = offsetof(je_request, seed) + sizeof(uint64_t);
constexpr uint32_t kLeastInfo = offsetof(je_info, image_size) + sizeof(int32_t);
constexpr uint32_t kLeastEvent = offsetof(je_event, image) + sizeof(je_image);

constexpr uint32_t kMostBytes = 1 << 16;  // no struct grows to this size: a larger one was not initialized

void check_size(uint32_t size, uint32_t least, const char* name) {
  if (size < least || size > kMostBytes)
    fail(JE_E_ABI, name, " of ", size, " bytes; set its size to sizeof first, by its init function where it has one");
}

[[noreturn]] void refuse_unknown(const char* name) {
  fail(JE_E_ABI, name, " sets a field that this library, ABI ", JE_ABI, ", does not know; use a newer one");
}

// Return a caller's struct as this library knows it. Fields that an older program lacks take the defaults. Fields that
// a newer program has and this library does not know must be 0.
template <class Struct>
Struct taken(const Struct& from, uint32_t least, const Struct& defaults, const char* name) {
  uint32_t size;
  std::memcpy(&size, &from, sizeof size);
  check_size(size, least, name);
  Struct found = defaults;
  std::memcpy(&found, &from, std::min<size_t>(size, sizeof found));
  const auto* bytes = reinterpret_cast<const unsigned char*>(&from);
  for (size_t i = sizeof found; i < size; ++i)
    if (bytes[i] != 0) refuse_unknown(name);
  return found;
}

// Fill in a caller's struct of `size` bytes: with the fields that it has room for, and zeros after them.
template <class Struct>
void give(Struct* to, const Struct& from, uint32_t size) {
  std::memset(static_cast<void*>(to), 0, size);
  std::memcpy(static_cast<void*>(to), &from, std::min<size_t>(size, sizeof from));
  std::memcpy(static_cast<void*>(to), &size, sizeof size);
}

je_options default_options() {
  je_options options{};
  options.context_mb = 256;
  return options;
}

je_request default_request() {
  constexpr double unset = std::numeric_limits<double>::quiet_NaN();
  je_request request{};
  request.size = sizeof request;
  request.task = JE_TASK_DRAW;
  request.num_images = 1;
  request.top_k = request.num_steps = -1;
  request.temperature = request.top_p = request.guidance_scale = unset;
  request.shift = request.guidance_start = request.guidance_end = unset;
  request.max_tokens = kUsualTokens;
  return request;
}

double elapsed_ms(const je_job& job) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - job.began).count();
}

je_event view(const je_job& job) {
  const Event& last = job.last_event;
  je_event event{};
  event.kind = last.kind;
  event.done = last.done;
  event.total = last.total;
  event.unit = last.unit;
  event.index = last.index;
  event.seed = last.seed;
  if (!last.text.empty()) event.text = last.text.c_str();
  event.text_length = last.text.size();
  if (!last.image.pixels.empty()) event.image = last.image.view();
  if (!last.codes.empty()) event.codes = last.codes.data();
  event.num_codes = last.codes.size();
  if (!last.latent.empty()) event.latent = last.latent.data();
  event.num_latent = last.latent.size();
  event.approximate = last.is_approximate;
  return event;
}

// Work until there is an event, move it to `last_event`, and return JE_OK; JE_DONE if there is none left.
je_status work_on(je_job& job) {
  while (job.events.empty()) {
    job.cancel.check();
    if (!job.task->advance(job.events, job.cancel)) return JE_DONE;
  }
  job.cancel.check();
  job.last_event = std::move(job.events.front());
  job.events.pop_front();
  return JE_OK;
}

// Return the next event of a job and set `status` to what je_job_next returns. Any status but JE_OK ends the job.
je_event next_of(je_job& job, je_status& status) {
  status = job.ended;
  if (status == JE_OK) status = guarded([&] { return work_on(job); });
  if (status != JE_OK && job.ended == JE_OK) {
    job.ended = status;
    guarded([&]() -> je_status {
      job.reason = je_error();
      return JE_OK;
    });
    job.task.reset();  // frees its memory
    job.events.clear();
    job.last_event = {};
  }
  if (status < 0 && !job.reason.empty()) note(status, job.reason.c_str());
  je_event found = status == JE_OK ? view(job) : je_event{};
  found.elapsed_ms = elapsed_ms(job);
  return found;
}

}  // namespace
}  // namespace je

using je::guarded;
using je::need;

extern "C" {

uint32_t je_abi(void) { return JE_ABI; }
const char* je_version(void) { return JE_VERSION; }

void je_options_init(je_options* options, uint32_t size) {
  if (options == nullptr || size < sizeof size) return;
  je::give(options, je::default_options(), size);
}

je_status je_session_open(const char* bundle, const je_options* options, je_session** session) {
  return guarded([&]() -> je_status {
    need(session, "session");
    *session = nullptr;
    need(bundle, "bundle");
    const je_options given = options == nullptr
                                 ? je::default_options()
                                 : je::taken(*options, je::kLeastOptions, je::default_options(), "je_options");
    je::Bundle opened = je::open_bundle(bundle, given.check_all != 0);
    je::load_onnxruntime(given.onnxruntime == nullptr ? "" : given.onnxruntime);
    je::Device device = je::choose_device(opened.manifest, given.device == nullptr ? "auto" : given.device);
    auto made = std::make_unique<je_session>();
    made->device = device.text();
    made->onnxruntime = je::onnxruntime_version();
    made->engines = std::make_shared<je::Engines>(std::move(opened), std::move(device), given);
    *session = made.release();
    return JE_OK;
  });
}

void je_session_close(je_session* session) { delete session; }

je_status je_session_info(const je_session* session, je_info* info) {
  return guarded([&]() -> je_status {
    need(session, "session");
    need(info, "info");
    je::check_size(info->size, je::kLeastInfo, "je_info");
    const je::Manifest& manifest = session->engines->bundle().manifest;
    je_info found{};
    found.image_size = static_cast<int32_t>(manifest.sizes.image_size);
    found.num_codes = static_cast<int32_t>(manifest.sizes.code_grid * manifest.sizes.code_grid);
    found.max_length = static_cast<int32_t>(manifest.sizes.max_length);
    found.uses_cpu_kernels = session->engines->uses_cpu_kernels();
    found.num_components = static_cast<int32_t>(manifest.components.size());
    found.name = manifest.name.c_str();
    found.family = manifest.is_flow ? "janusflow" : "janus";
    found.sha256 = session->engines->bundle().sha256.c_str();
    found.device = session->device.c_str();
    found.onnxruntime = session->onnxruntime.c_str();
    je::give(info, found, info->size);
    return JE_OK;
  });
}

je_status je_tokenize(const je_session* session, const char* text, uint32_t* ids, size_t capacity, size_t* count) {
  return guarded([&]() -> je_status {
    need(session, "session");
    need(text, "text");
    need(count, "count");
    if (capacity > 0) need(ids, "ids");
    const std::vector<uint32_t> found = session->engines->bundle().encoder->tokenizer().encode(text);
    *count = found.size();
    std::copy_n(found.begin(), std::min(capacity, found.size()), ids);
    return JE_OK;
  });
}

void je_request_init(je_request* request, uint32_t size) {
  if (request == nullptr || size < sizeof size) return;
  je::give(request, je::default_request(), size);
}

je_status je_job_start(je_session* session, const je_request* request, je_job** job) {
  return guarded([&]() -> je_status {
    need(job, "job");
    *job = nullptr;
    need(session, "session");
    need(request, "request");
    const je_request given = je::taken(*request, je::kLeastRequest, je::default_request(), "je_request");
    auto made = std::make_unique<je_job>();
    made->engines = session->engines;
    made->task = je::start_task(session->engines, given);
    *job = made.release();
    return JE_OK;
  });
}

je_status je_job_next(je_job* job, je_event* event) {
  je_status status = guarded([&]() -> je_status {
    need(job, "job");
    need(event, "event");
    je::check_size(event->size, je::kLeastEvent, "je_event");
    je::Use unused = je::Use::kNone;
    if (!job->use.compare_exchange_strong(unused, je::Use::kBusy))
      je::fail(JE_E_ARGUMENT, "job is in je_job_next on another thread; use it on one at a time");
    return JE_OK;
  });
  if (status != JE_OK) return status;
  const je_event found = je::next_of(*job, status);
  je::Use busy = je::Use::kBusy;
  if (!job->use.compare_exchange_strong(busy, je::Use::kNone)) {  // je_job_free was called meanwhile
    je_event none{};
    none.elapsed_ms = found.elapsed_ms;
    je::give(event, none, event->size);
    delete job;
    return JE_CANCELLED;
  }
  je::give(event, found, event->size);
  return status;
}

void je_job_cancel(je_job* job) {
  if (job == nullptr) return;
  guarded([&]() -> je_status {
    job->cancel.ask();
    return JE_OK;
  });
}

void je_job_free(je_job* job) {
  if (job == nullptr) return;
  je::Use busy = je::Use::kBusy;
  je_job_cancel(job);  // before kGivenUp is set: after that, the other thread may free the job at any time
  if (!job->use.compare_exchange_strong(busy, je::Use::kGivenUp)) delete job;
}
}
