// The library as a program uses it, for sanitizers and for memory: the conformance cases, several jobs at once,
// cancelling, opening and closing.
//
// usage: stress ONNXRUNTIME BUNDLE cases FILE    each line "draw SEED PROMPT" or "ask SEED PICTURE QUESTION", tabs
// between;
//                                                prints what came out of each, a line
//        stress ONNXRUNTIME BUNDLE at-once       two jobs on two threads give what they give alone
//        stress ONNXRUNTIME BUNDLE cancel N      N jobs cancelled from another thread
//        stress ONNXRUNTIME BUNDLE reopen N      opens, draws now and then, closes; prints the memory held, in KB
//        stress ONNXRUNTIME BUNDLE no-memory     draws where no more memory can be had, which must fail, and then
//                                              where it can
//        stress ONNXRUNTIME BUNDLE tokenize TEXT prints ids
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "janus_edge.hpp"

namespace {

const char* onnxruntime = nullptr;

janus_edge::Engine open(const std::string& bundle) {
  je_options options = janus_edge::default_options();
  options.onnxruntime = onnxruntime;
  options.num_threads = 2;
  return janus_edge::Engine(bundle, options);
}

// Of all bytes of a result (FNV-1a).
struct Hash {
  uint64_t value = 14695981039346656037u;
  void take(const void* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      value ^= static_cast<const unsigned char*>(bytes)[i];
      value *= 1099511628211u;
    }
  }
};

// What a job comes to: codes or latent and pixels, or the text.
std::string result_of(janus_edge::Job& job) {
  std::ostringstream found;
  for (const je_event& event : job) {
    if (event.kind == JE_EVENT_TEXT) found.write(event.text, static_cast<std::streamsize>(event.text_length));
    if (event.kind != JE_EVENT_IMAGE) continue;
    Hash hash;
    hash.take(event.codes, event.num_codes * sizeof *event.codes);
    hash.take(event.latent, event.num_latent * sizeof *event.latent);
    hash.take(event.image.pixels, static_cast<size_t>(event.image.stride) * static_cast<size_t>(event.image.height));
    found << std::hex << hash.value;
  }
  return found.str();
}

std::string draw(const janus_edge::Engine& engine, uint64_t seed, const std::string& prompt) {
  janus_edge::Job job = engine.draw(prompt, seed);
  return result_of(job);
}

void run_cases(const janus_edge::Engine& engine, const char* path) {
  std::ifstream file(path);
  std::string kind, seed, picture, text;
  while (std::getline(file, kind, '\t') && std::getline(file, seed, '\t')) {
    std::string found;
    if (kind == "ask") {
      std::getline(file, picture, '\t');
      std::getline(file, text);
      const janus_edge::Image image(picture);
      janus_edge::Job job = engine.ask(text, {image.get()});
      found = result_of(job);
    } else {
      std::getline(file, text);
      found = draw(engine, std::strtoull(seed.c_str(), nullptr, 10), text);
    }
    std::cout << kind << '\t' << found << '\n';
  }
}

void run_at_once(const janus_edge::Engine& engine) {
  const std::string prompts[] = {"a red circle", "two blue squares"};
  std::string alone[2], together[2];
  for (size_t i = 0; i < 2; ++i) alone[i] = draw(engine, i, prompts[i]);
  std::thread other([&] { together[1] = draw(engine, 1, prompts[1]); });
  together[0] = draw(engine, 0, prompts[0]);
  other.join();
  if (alone[0] != together[0] || alone[1] != together[1]) throw std::runtime_error("drew otherwise at once");
}

void run_cancel(const janus_edge::Engine& engine, int count) {
  int num_cancelled = 0;
  for (int i = 0; i < count; ++i) {
    janus_edge::Job job = engine.draw("a green star", static_cast<uint64_t>(i));
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

struct Memory {
  long mapped_kb, resident_kb;
};

Memory memory() {
  std::ifstream file("/proc/self/statm");
  const long page_kb = sysconf(_SC_PAGESIZE) / 1024;
  long mapped = 0, resident = 0;
  file >> mapped >> resident;
  return {mapped * page_kb, resident * page_kb};
}

void run_reopen(const std::string& bundle, int count) {
  for (int i = 1; i <= count; ++i) {
    const janus_edge::Engine engine = open(bundle);
    if (i % 20 == 1) draw(engine, static_cast<uint64_t>(i), "a cross");
    if (i % (count / 10) == 0) std::cout << memory().resident_kb << '\n';
  }
}

void run_without_memory(const janus_edge::Engine& engine) {
  const rlimit none{static_cast<rlim_t>(memory().mapped_kb) * 1024, RLIM_INFINITY}, any{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_AS, &none);
  bool has_failed = false;
  try {
    draw(engine, 0, "a cross");
  } catch (const janus_edge::Error& error) {
    if (error.status() != JE_E_MEMORY) throw;
    has_failed = true;
  }
  if (!has_failed) throw std::runtime_error("drew without memory");
  setrlimit(RLIMIT_AS, &any);
  draw(engine, 0, "a cross");
}

void run_tokenize(const janus_edge::Engine& engine, const char* text) {
  for (const uint32_t id : engine.tokenize(text)) std::cout << id << '\n';
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
    else if (work == "cancel")
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
