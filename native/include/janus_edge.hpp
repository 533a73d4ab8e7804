// janus_edge.hpp - a header-only C++17 wrapper of janus_edge.h. Destructors close what was opened; errors are thrown as
// janus_edge::Error. The wrapper calls the C functions alone, so a program and the library may be built with different
// compilers.
//
//     janus_edge::Session session("bundles/tiny-things");
//     janus_edge::Job job = session.draw("a red apple");
//     for (const je_event& event : job)
//       if (event.kind == JE_EVENT_IMAGE) janus_edge::save(event.image, "out.png");
//
// Threads and lifetimes: see janus_edge.h at the C function that a function calls. Functions throw Error unless they
// are noexcept or say otherwise.
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "janus_edge.h"

namespace janus_edge {

// A negative je_status; what() is the line of je_error().
class Error : public std::runtime_error {
 public:
  explicit Error(je_status status) : std::runtime_error(je_error()), status_(status) {}
  je_status status() const { return status_; }

 private:
  je_status status_;
};

// Return the status; throw Error if it is negative.
inline je_status check(je_status status) {
  if (status < 0) throw Error(status);
  return status;
}

// An image read from a PNG or JPEG file (je_image_load). It can be moved, not copied.
class Image {
 public:
  explicit Image(const std::string& path) { check(je_image_load(path.c_str(), &image_)); }
  ~Image() { je_image_free(&image_); }
  Image(Image&& other) noexcept : image_(std::exchange(other.image_, je_image{})) {}
  Image& operator=(Image&& other) noexcept {
    std::swap(image_, other.image_);
    return *this;
  }

  const je_image& get() const { return image_; }

 private:
  je_image image_{};
};

// Write an image as a PNG file (je_image_save).
inline void save(const je_image& image, const std::string& path) {
  check(je_image_save(path.c_str(), &image, nullptr, 0));
}

// Return options with all defaults. Does not throw.
inline je_options default_options() {
  je_options options;
  je_options_init(&options, sizeof options);
  return options;
}

// Return a request with all defaults. Does not throw.
inline je_request default_request() {
  je_request request;
  je_request_init(&request, sizeof request);
  return request;
}

// A request that was started. One thread at a time, except for cancel(). The destructor ends the job.
class Job {
 public:
  // Check a request and start it (je_job_start).
  Job(je_session* session, const je_request& request) {
    je_job* job = nullptr;
    check(je_job_start(session, &request, &job));
    job_.reset(job);
    event_->size = sizeof *event_;
  }

  // Work until there is an event and return it. It is valid until the next call. Return nullptr if the request is
  // finished or was cancelled.
  const je_event* next() {
    const je_status status = check(je_job_next(job_.get(), event_.get()));
    is_cancelled_ = status == JE_CANCELLED;
    return status == JE_OK ? event_.get() : nullptr;
  }

  // Return true if the job ended because it was cancelled.
  bool is_cancelled() const { return is_cancelled_; }
  // Return the time from the job's start to the end of the last call of next(), in ms.
  double elapsed_ms() const { return event_->elapsed_ms; }

  // Ask the job to end. Any thread.
  void cancel() noexcept { je_job_cancel(job_.get()); }

  // An input iterator over the events: for (const je_event& event : job).
  class Iterator {
   public:
    explicit Iterator(Job* job) : job_(job), event_(job != nullptr ? job->next() : nullptr) {}
    const je_event& operator*() const { return *event_; }
    Iterator& operator++() {
      event_ = job_->next();
      return *this;
    }
    bool operator!=(const Iterator& other) const { return event_ != other.event_; }

   private:
    Job* job_;
    const je_event* event_;
  };
  Iterator begin() { return Iterator(this); }
  Iterator end() { return Iterator(nullptr); }

 private:
  struct Free {
    void operator()(je_job* job) const { je_job_free(job); }
  };
  std::unique_ptr<je_job, Free> job_;
  std::unique_ptr<je_event> event_ = std::make_unique<je_event>();
  bool is_cancelled_ = false;
};

// An open bundle. Any number of threads may use one.
class Session {
 public:
  // Open the folder of a bundle (je_session_open).
  explicit Session(const std::string& bundle, const je_options& options = default_options()) {
    je_session* session = nullptr;
    check(je_session_open(bundle.c_str(), &options, &session));
    session_.reset(session);
  }

  // Return the C session, which this object keeps.
  je_session* get() const { return session_.get(); }

  // Return facts about the session (je_session_info). Strings live as long as the session.
  je_info info() const {
    je_info info{};
    info.size = sizeof info;
    check(je_session_info(session_.get(), &info));
    return info;
  }

  // Return the token ids of a text (je_tokenize).
  std::vector<uint32_t> tokenize(const std::string& text) const {
    std::vector<uint32_t> ids(text.size() + 1);
    size_t count = 0;
    check(je_tokenize(session_.get(), text.c_str(), ids.data(), ids.size(), &count));
    const bool has_all = count <= ids.size();  // false for a text whose normal form is longer
    ids.resize(count);
    if (!has_all) check(je_tokenize(session_.get(), text.c_str(), ids.data(), ids.size(), &count));
    return ids;
  }

  // Start any request.
  Job start(const je_request& request) const { return Job(session_.get(), request); }

  // Start to draw one image with default settings. seed: 0 to 2^63 - 1.
  Job draw(const std::string& prompt, uint64_t seed = 0) const {
    je_request request = default_request();
    request.prompt = prompt.c_str();
    request.seed = seed;
    return start(request);
  }

  // Start to answer a question about images. The images may be freed when this returns.
  Job ask(const std::string& question, const std::vector<je_image>& images = {}) const {
    je_request request = default_request();
    request.task = JE_TASK_ASK;
    request.prompt = question.c_str();
    request.input_images = images.data();
    request.num_input_images = images.size();
    return start(request);
  }

 private:
  struct Close {
    void operator()(je_session* session) const { je_session_close(session); }
  };
  std::unique_ptr<je_session, Close> session_;
};

}  // namespace janus_edge
