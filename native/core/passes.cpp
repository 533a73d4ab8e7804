#include "passes.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "json_reader.hpp"
#include "notes.hpp"

namespace je {
namespace {

const std::vector<int64_t> kWidths{1, 2, 3, 4, 6, 8, 12, 16};  // what is chosen from
constexpr size_t kRounds = 3;                                  // passes of each width whose median is its cost
constexpr double kMemory = 0.98;    // what each test of a draft leaves of the weight of those before it
constexpr double kPriorRight = 2;   // drafts that were right, ...
constexpr double kPriorTested = 4;  // ... and that were tested, before the first pass
constexpr double kMostTested = 8;   // what tests of earlier requests count for at most
constexpr double kNews = 0.2;       // change of the codes that the widest pass adds, in parts, that is written
constexpr int64_t kTrial = 32;      // of so many passes one tries the next larger width, ...
constexpr int64_t kFirstTrial = 8;  // ... this one first

double four_digits(double value) { return std::round(value * 1e4) / 1e4; }

// Return the samples of a width in a note; none if they are not some positive numbers.
std::vector<double> sound(const nlohmann::json& found, const std::string& width) {
  const auto samples = found.find(width);
  if (samples == found.end() || !samples->is_array() || samples->size() > kRounds) return {};
  std::vector<double> taken;
  for (const nlohmann::json& each : *samples) {
    if (!each.is_number_float()) return {};
    taken.push_back(each.get<double>());
    if (!(taken.back() > 0 && std::isfinite(taken.back()))) return {};
  }
  return taken;
}

}  // namespace

std::optional<std::filesystem::path> costs_note(const std::string& bundle, const std::string& instructions,
                                                int num_threads, int64_t rows, const std::string& head) {
  return note_of("passes", join("c ", bundle, " ", instructions, " ", num_threads, " ", rows, " ", head));
}

Passes passes_for(const Engines& engines, int64_t rows, const std::string& head, int64_t parallel) {
  if (parallel > 0 || !engines.uses_cpu_kernels()) return Passes(std::max<int64_t>(parallel, 1));
  return Passes(costs_note(engines.bundle().sha256, kernels_in_use(), engines.num_threads(), rows, head));
}

Passes::Passes(std::optional<std::filesystem::path> note)
    : widths_(kWidths),
      note_(std::move(note)),
      drafts_(static_cast<size_t>(widest() - 1), Draft{kPriorRight, kPriorTested}) {
  const Tree found(read_note(note_));
  for (const int64_t width : widths_) num_known_ += (samples_[width] = sound(found.root, std::to_string(width))).size();
  const auto drafts = found.root.find("drafts");
  if (drafts != found.root.end() && drafts->is_array() && drafts->size() == drafts_.size()) {
    std::vector<Draft> read_drafts;
    for (const nlohmann::json& each : *drafts) read_drafts.push_back(read(each));
    const auto is_sound = [](const Draft& each) { return each.tested > 0; };
    if (std::all_of(read_drafts.begin(), read_drafts.end(), is_sound)) drafts_ = read_drafts;
  }
  known_drafts_ = drafts_;
}

// Return a draft's two weights; none tested if they are not such weights.
Passes::Draft Passes::read(const nlohmann::json& found) {
  if (!found.is_array() || found.size() != 2 || !found[0].is_number_float() || !found[1].is_number_float())
    return {0, 0};
  const Draft draft{found[0].get<double>(), found[1].get<double>()};
  const bool is_sound = 0 <= draft.right && draft.right <= draft.tested && kPriorTested <= draft.tested;
  return is_sound && draft.tested <= kMostTested ? draft : Draft{0, 0};
}

int64_t Passes::begin(int64_t most) {
  width_ = std::min(choose(most), most);
  num_waits_ = PoolTurn::num_waits();
  began_ = std::chrono::steady_clock::now();
  return width_;
}

void Passes::end(const std::vector<int64_t>& accepted) {
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began_;
  learn(accepted, took.count(), num_waits_ == PoolTurn::num_waits());
}

void Passes::learn(const std::vector<int64_t>& accepted, double took_ms, bool is_alone) {
  is_alone_ = is_alone;
  if (widths_.size() == 1) return;
  const auto samples = samples_.find(width_);
  const bool is_first = ++times_[width_] == 1;  // it also allocates memory
  if (samples != samples_.end() && samples->second.size() < kRounds && !is_first && is_alone)
    samples->second.push_back(four_digits(took_ms));
  ++num_passes_;
  for (const int64_t count : accepted) {
    for (int64_t draft = 0; draft < std::min(count, width_ - 1); ++draft) {
      Draft& tests = drafts_[static_cast<size_t>(draft)];
      tests = {kMemory * tests.right + (draft + 1 < count ? 1 : 0), kMemory * tests.tested + 1};
    }
  }
}

void Passes::keep() const {
  if (widths_.size() == 1) return;
  size_t known = 0;
  Tree found(nlohmann::json::object());
  for (const auto& [width, ms] : samples_) {
    known += ms.size();
    found.root[std::to_string(width)] = ms;
  }
  for (const Draft& draft : drafts_) {
    const double weight = std::min(1.0, kMostTested / draft.tested);
    found.root["drafts"].push_back({four_digits(weight * draft.right), four_digits(weight * draft.tested)});
  }
  const double before = codes(known_drafts_, widest()), now = codes(drafts_, widest());
  if (known > num_known_ || std::fabs(now - before) > kNews * before) write_note(note_, found.root);
}

// Return a width, at most `most` if there is one.
int64_t Passes::choose(int64_t most) const {
  if (widths_.size() == 1) return widest();
  const auto end = std::upper_bound(widths_.begin() + 1, widths_.end(), most);
  const auto size = [&](int64_t width) { return samples_.at(width).size(); };
  const auto least = std::min_element(widths_.begin(), end, [&](int64_t a, int64_t b) { return size(a) < size(b); });
  if (size(*least) < kRounds) return is_alone_ ? *least : widths_[0];  // each in turn, as a machine's speed changes
  auto best = std::max_element(widths_.begin(), end, [&](int64_t a, int64_t b) { return speed(a) < speed(b); });
  const bool is_trial = num_passes_ % kTrial == kFirstTrial - 1;  // how often further drafts are right
  if (is_trial && std::next(best) != end) ++best;
  return *best;
}

// Return the codes a millisecond that passes of a width may add to an image.
double Passes::speed(int64_t width) const {
  std::vector<double> sorted = samples_.at(width);
  std::sort(sorted.begin(), sorted.end());
  return codes(drafts_, width) / sorted[kRounds / 2];
}

// Return how many codes a pass of a width adds to an image on average.
double Passes::codes(const std::vector<Draft>& drafts, int64_t width) {
  double found = 1, chance = 1;
  for (int64_t at = 0; at < width - 1; ++at) {
    const Draft& draft = drafts[static_cast<size_t>(at)];
    chance *= draft.right / draft.tested;
    found += chance;
  }
  return found;
}

}  // namespace je
