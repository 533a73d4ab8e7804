// Uses the library as a program does, under sanitizers and to measure memory: the conformance cases, several jobs at
// once, cancelling, opening and closing.
//
// usage: stress ONNXRUNTIME BUNDLE cases FILE    each line is "draw SEED PROMPT" or "ask SEED IMAGE QUESTION",
// separated by
//                                                tabs; prints one line per result
//        stress ONNXRUNTIME BUNDLE at-once       two jobs on two threads give the same results as alone
//        stress ONNXRUNTIME BUNDLE cancel N      cancels N jobs from another thread
//        stress ONNXRUNTIME BUNDLE one-job       one job on three threads gives every event once; a job is freed while
//        it
//                                                works
//        stress ONNXRUNTIME BUNDLE reopen N      opens, sometimes draws, and closes; prints KiB allocated
//        stress ONNXRUNTIME BUNDLE no-memory     draws without free memory, which must fail, and then with it
//        stress ONNXRUNTIME BUNDLE tokenize TEXT prints token ids
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "janus_edge.hpp"

namespace {

const char* onnxruntime = nullptr;

janus_edge::Session open(const std::string& bundle) {
  je_options options = janus_edge::default_options();
  options.onnxruntime = onnxruntime;
  options.num_threads = 2;
  return janus_edge::Session(bundle, options);
}

// A hash of all bytes of a result (FNV-1a).
struct Hash {
  uint64_t value = 14695981039346656037u;
  void take(const void* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      value ^= static_cast<const unsigned char*>(bytes)[i];
      value *= 1099511628211u;
    }
  }
};

// Return a job's result: a hash of codes or latent and one of the pixels, or the text.
std::string result_of(janus_edge::Job& job) {
  std::ostringstream found;
  for (const je_event& event : job) {
    if (event.kind == JE_EVENT_TEXT) found.write(event.text, static_cast<std::streamsize>(event.text_length));
    if (event.kind != JE_EVENT_IMAGE) continue;
    Hash drawn, pixels;
    drawn.take(event.codes, event.num_codes * sizeof *event.codes);
    drawn.take(event.latent, event.num_latent * sizeof *event.latent);
    pixels.take(event.image.pixels, static_cast<size_t>(event.image.stride) * static_cast<size_t>(event.image.height));
    found << std::hex << drawn.value << ' ' << pixels.value;
  }
  return found.str();
}

std::string draw(const janus_edge::Session& session, uint64_t seed, const std::string& prompt) {
  janus_edge::Job job = session.draw(prompt, seed);
  return result_of(job);
}

void run_cases(const janus_edge::Session& session, const char* path) {
  std::ifstream file(path);
  std::string kind, seed, path_of_image, text;
  while (std::getline(file, kind, '\t') && std::getline(file, seed, '\t')) {
    std::string found;
    if (kind == "ask") {
      std::getline(file, path_of_image, '\t');
      std::getline(file, text);
      const janus_edge::Image image(path_of_image);
      janus_edge::Job job = session.ask(text, {image.get()});
      found = result_of(job);
    } else {
      std::getline(file, text);
      found = draw(session, std::strtoull(seed.c_str(), nullptr, 10), text);
    }
    std::cout << kind << '\t' << found << '\n';
  }
}

void run_at_once(const janus_edge::Session& session) {
  const std::string prompts[] = {"a red circle", "two blue squares"};
  std::string alone[2], together[2];
  for (size_t i = 0; i < 2; ++i) alone[i] = draw(session, i, prompts[i]);
  std::thread other([&] { together[1] = draw(session, 1, prompts[1]); });
  together[0] = draw(session, 0, prompts[0]);
  other.join();
  if (alone[0] != together[0] || alone[1] != together[1]) throw std::runtime_error("drew otherwise at once");
}

void run_cancel(const janus_edge::Session& session, int count) {
  int num_cancelled = 0;
  for (int i = 0; i < count; ++i) {
    janus_edge::Job job = session.draw("a green star", static_cast<uint64_t>(i));
    std::thread other([&job, i] {
      std::this_thread::sleep_for(std::chrono::milliseconds(i % 40));
      job.cancel();
      job.cancel();
    });
    while (job.next() != nullptr) {
    }
    other.join();
    num_cancelled += job.is_cancelled();
    if (job.is_cancelled() && job.next() != nullptr) throw std::runtime_error("went on after it was cancelled");
  }
  std::cout << num_cancelled << " of " << count << " cancelled\n";
}

// Counts of a job that several threads use: events, calls refused because it is busy, and other statuses.
struct Shared {
  std::atomic<int> num_events{0}, num_refused{0}, num_others{0};
};

// Take events until the job ends. A refused call must leave the event as it was.
void take_events(je_job* job, Shared& shared) {
  for (;;) {
    je_event event{};
    event.size = sizeof event;
    event.kind = -7;
    const je_status status = je_job_next(job, &event);
    if (status == JE_OK) {
      ++shared.num_events;
    } else if (status == JE_E_ARGUMENT && event.kind == -7 && std::strstr(je_error(), "another thread") != nullptr) {
      ++shared.num_refused;
      std::this_thread::yield();
    } else {
      shared.num_others += status != JE_DONE;
      return;
    }
  }
}

je_job* start(const janus_edge::Session& session, const char* prompt, int num_images) {
  je_request request = janus_edge::default_request();
  request.prompt = prompt;
  request.num_images = num_images;
  je_job* job = nullptr;
  janus_edge::check(je_job_start(session.get(), &request, &job));
  return job;
}

void run_one_job(const janus_edge::Session& session) {
  Shared alone, shared;
  je_job* job = start(session, "a red circle", 2);
  take_events(job, alone);
  je_job_free(job);
  job = start(session, "a red circle", 2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { take_events(job, shared); });
  for (std::thread& each : threads) each.join();
  je_job_free(job);
  if (shared.num_others > 0 || shared.num_events != alone.num_events)
    throw std::runtime_error("other events on three threads");
  if (shared.num_refused == 0) throw std::runtime_error("the threads never met");
}

// A log that stops a thread inside je_job_next, where it opens an engine.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_armed = false, is_inside = false, is_open = false;

  static void line(void* context, int32_t, const char*) {
    Gate& gate = *static_cast<Gate*>(context);
    std::unique_lock<std::mutex> lock(gate.mutex);
    if (!gate.is_armed || gate.is_inside) return;
    gate.is_inside = true;
    gate.changed.notify_all();
    gate.changed.wait(lock, [&] { return gate.is_open; });
  }
  void arm() {
    const std::lock_guard<std::mutex> lock(mutex);
    is_armed = true;
  }
  void await() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return is_inside; });
  }
  void open() {
    const std::lock_guard<std::mutex> lock(mutex);
    is_open = true;
    changed.notify_all();
  }
};

// Free a job and close its session while a thread is in je_job_next: that call returns JE_CANCELLED, and nothing leaks.
void run_freed(const std::string& bundle) {
  Gate gate;
  je_options options = janus_edge::default_options();
  options.onnxruntime = onnxruntime;
  options.log = Gate::line;
  options.log_context = &gate;
  janus_edge::Session session(bundle, options);
  je_job* job = start(session, "a red circle", 1);
  gate.arm();
  je_status status = JE_OK;
  je_event event{};
  event.size = sizeof event;
  std::thread other([&] { status = je_job_next(job, &event); });
  gate.await();
  je_job_free(job);
  {
    const janus_edge::Session closed = std::move(session);
  }
  gate.open();
  other.join();
  if (status != JE_CANCELLED || event.kind != 0 || event.total != 0)
    throw std::runtime_error("a freed job went on: " + std::to_string(status));
}

long mapped_kb() {
  std::ifstream file("/proc/self/statm");
  long pages = 0;
  file >> pages;
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

// What is allocated and not freed: the resident memory would count what the allocator keeps, too.
size_t allocated_kb() {
  const struct mallinfo2 found = mallinfo2();
  return (found.uordblks + found.hblkhd) / 1024;
}

void run_reopen(const std::string& bundle, int count) {
  for (int i = 1; i <= count; ++i) {
    {
      const janus_edge::Session session = open(bundle);
      if (i % 20 == 1) draw(session, static_cast<uint64_t>(i), "a cross");
    }
    if (i % (count / 10) == 0) std::cout << allocated_kb() << '\n';
  }
}

// The graphs are open by then: ONNX Runtime 1.31 itself crashes where it finds no memory to open one.
void run_without_memory(const janus_edge::Session& session) {
  const std::string expected = draw(session, 0, "a cross");
  const rlimit none{static_cast<rlim_t>(mapped_kb()) * 1024, RLIM_INFINITY}, any{RLIM_INFINITY, RLIM_INFINITY};
  je_request request = janus_edge::default_request();
  request.prompt = "a cross";
  request.num_images = 16;
  setrlimit(RLIMIT_AS, &none);
  bool has_failed = false;
  try {
    janus_edge::Job job = session.start(request);
    result_of(job);
  } catch (const janus_edge::Error& error) {
    if (error.status() != JE_E_MEMORY) throw;
    has_failed = true;
  }
  if (!has_failed) throw std::runtime_error("drew without memory");
  setrlimit(RLIMIT_AS, &any);
  if (draw(session, 0, "a cross") != expected) throw std::runtime_error("drew something else after that");
}

void run_tokenize(const janus_edge::Session& session, const char* text) {
  for (const uint32_t id : session.tokenize(text)) std::cout << id << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  onnxruntime = argv[1];
  const std::string bundle = argv[2], work = argv[3];
  try {
    if (work == "cases")
      run_cases(open(bundle), argv[4]);
    else if (work == "at-once")
      run_at_once(open(bundle));
    else if (work == "one-job") {
      run_one_job(open(bundle));
      run_freed(bundle);
    } else if (work == "cancel")
      run_cancel(open(bundle), std::atoi(argv[4]));
    else if (work == "no-memory")
      run_without_memory(open(bundle));
    else if (work == "tokenize")
      run_tokenize(open(bundle), argv[4]);
    else
      run_reopen(bundle, std::atoi(argv[4]));
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
