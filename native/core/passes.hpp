// How many positions a pass computes: a fixed number, or what is fastest (docs/decoding.md). Mirrors
// runtime/passes.py.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engines.hpp"

namespace je {

constexpr int64_t kMostWidth = 64;  // what may be asked for

// Return the note that keeps what passes cost and how many drafts are right. bundle: SHA-256 of its manifest.
// instructions: the instruction set of the CPU kernels. rows: of the decoder. head: the component that makes logits.
std::optional<std::filesystem::path> costs_note(const std::string& bundle, const std::string& instructions,
                                                int num_threads, int64_t rows, const std::string& head);

// Chooses the width of each pass.
class Passes {
 public:
  // Passes of one width.
  explicit Passes(int64_t width) : widths_{width} {}

  // Passes of the widths that draw fastest. note: keeps what is learned for later requests.
  explicit Passes(std::optional<std::filesystem::path> note);

  int64_t widest() const { return widths_.back(); }

  // Return how many positions the next pass computes, at most `most`; start its clock.
  int64_t begin(int64_t most);

  // Stop the clock and learn from a pass. accepted: how many codes it added to each image.
  void end(const std::vector<int64_t>& accepted);

  // Learn from a pass that took so many ms. is_alone: false if it waited for other jobs. Its time is then no cost, and
  // costs are not measured in the next pass.
  void learn(const std::vector<int64_t>& accepted, double took_ms, bool is_alone);

  // Write what was learned if it is news.
  void keep() const;

 private:
  // Of a draft: right ones and tested ones, as weights.
  struct Draft {
    double right, tested;
  };

  static Draft read(const nlohmann::json& found);
  static double codes(const std::vector<Draft>& drafts, int64_t width);
  int64_t choose(int64_t most) const;
  double speed(int64_t width) const;

  std::vector<int64_t> widths_;
  std::optional<std::filesystem::path> note_;
  std::map<int64_t, std::vector<double>> samples_;  // ms of passes, by their width
  std::map<int64_t, int64_t> times_;                // passes of each width
  std::vector<Draft> drafts_, known_drafts_;        // of the widest pass; now, and before the request
  size_t num_known_ = 0;                            // samples before the request
  int64_t num_passes_ = 0, width_ = 0;
  bool is_alone_ = true;
  uint64_t num_waits_ = 0;  // of this thread, when the pass began
  std::chrono::steady_clock::time_point began_;
};

// Return how many positions a pass computes: so many, or with 0 what is fastest. Where sums depend on how many
// positions are computed together, the clock must not choose: passes then have one position.
Passes passes_for(const Engines& engines, int64_t rows, const std::string& head, int64_t parallel);

}  // namespace je
