// janus_edge.hpp - janus_edge.h for C++17: what is opened is closed, errors are exceptions. Header only; only the C
// functions are called, so a program may be built with another compiler than the library.
//
//     janus_edge::Session session("bundles/tiny-janus");
//     janus_edge::Job job = session.draw("three red circles");
//     for (const je_event& event : job)
//       if (event.kind == JE_EVENT_IMAGE) janus_edge::save(event.image, "out.png");
//
// Threads and lifetimes are as janus_edge.h says of the function that is called.
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "janus_edge.h"

namespace janus_edge {

// A negative status, with je_error()'s line.
class Error : public std::runtime_error {
 public:
  explicit Error(je_status status) : std::runtime_error(je_error()), status_(status) {}
  je_status status() const { return status_; }

 private:
  je_status status_;
};

inline je_status check(je_status status) {
  if (status < 0) throw Error(status);
  return status;
}

// An image that was read from a file.
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

inline void save(const je_image& image, const std::string& path) {
  check(je_image_save(path.c_str(), &image, nullptr, 0));
}

// Defaults, to be changed and passed on.
inline je_options default_options() {
  je_options options;
  je_options_init(&options, sizeof options);
  return options;
}

inline je_request default_request() {
  je_request request;
  je_request_init(&request, sizeof request);
  return request;
}

class Job {
 public:
  Job(je_session* session, const je_request& request) {
    je_job* job = nullptr;
    check(je_job_start(session, &request, &job));
    job_.reset(job);
    event_->size = sizeof *event_;
  }

  // The next event, valid until the next call; nullptr: finished, or cancelled.
  const je_event* next() {
    const je_status status = check(je_job_next(job_.get(), event_.get()));
    is_cancelled_ = status == JE_CANCELLED;
    return status == JE_OK ? event_.get() : nullptr;
  }

  bool is_cancelled() const { return is_cancelled_; }
  double elapsed_ms() const { return event_->elapsed_ms; }

  // From any thread.
  void cancel() noexcept { je_job_cancel(job_.get()); }

  // for (const je_event& event : job)
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

class Session {
 public:
  explicit Session(const std::string& bundle, const je_options& options = default_options()) {
    je_session* session = nullptr;
    check(je_session_open(bundle.c_str(), &options, &session));
    session_.reset(session);
  }

  je_session* get() const { return session_.get(); }

  je_info info() const {
    je_info info{};
    info.size = sizeof info;
    check(je_session_info(session_.get(), &info));
    return info;
  }

  std::vector<uint32_t> tokenize(const std::string& text) const {
    std::vector<uint32_t> ids(text.size() + 1);
    size_t count = 0;
    check(je_tokenize(session_.get(), text.c_str(), ids.data(), ids.size(), &count));
    const bool has_all = count <= ids.size();  // not of a text whose normal form is longer
    ids.resize(count);
    if (!has_all) check(je_tokenize(session_.get(), text.c_str(), ids.data(), ids.size(), &count));
    return ids;
  }

  Job start(const je_request& request) const { return Job(session_.get(), request); }

  Job draw(const std::string& prompt, uint64_t seed = 0) const {
    je_request request = default_request();
    request.prompt = prompt.c_str();
    request.seed = seed;
    return start(request);
  }

  // images: of the question; they may go once this has returned.
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
