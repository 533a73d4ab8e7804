#include "flow.hpp"

#include <utility>

#include "sampling.hpp"

namespace je {
namespace {

// What a solver reads of a step: from z at time `start` to time `stop`.
struct Step {
  std::function<Latent(const Latent&, double)> field;
  const Latent& z;
  const Latent& v;  // velocity at the start of the step
  double start, stop;
  const Latent*
      before;  // velocity at the start of the step before; nullptr: there is none, or its guidance was different
  double length_before;
};

// The slope that is applied over the step, and the newest velocity that was computed.
struct Slope {
  Latent slope, newest;
};

// Return z + factor * v.
Latent moved(const Latent& z, double factor, const Latent& v) {
  const float weight = static_cast<float>(factor);
  Latent found(z.size());
  for (size_t i = 0; i < z.size(); ++i) found[i] = z[i] + weight * v[i];
  return found;
}

Slope euler(const Step& step) { return {step.v, step.v}; }

Slope ab2(const Step& step) {
  if (step.before == nullptr) return euler(step);
  const float multistep_weight = static_cast<float>((step.stop - step.start) / (2 * step.length_before));
  Latent slope(step.v.size());
  for (size_t i = 0; i < slope.size(); ++i) slope[i] = step.v[i] + multistep_weight * (step.v[i] - (*step.before)[i]);
  return {std::move(slope), step.v};
}

Slope heun(const Step& step) {
  Latent ahead = step.field(moved(step.z, step.stop - step.start, step.v), step.stop);
  Latent slope(ahead.size());
  for (size_t i = 0; i < slope.size(); ++i) slope[i] = (step.v[i] + ahead[i]) / 2;
  return {std::move(slope), std::move(ahead)};
}

using Solver = Slope (*)(const Step&);
const std::vector<std::pair<std::string, Solver>> kSolvers = {{"euler", euler}, {"ab2", ab2}, {"heun", heun}};

Solver solver_of(const std::string& name) {
  for (const auto& [each, solver] : kSolvers)
    if (each == name) return solver;
  return nullptr;
}

}  // namespace

std::vector<double> timestep_schedule(int64_t num_steps, double shift) {
  std::vector<double> found;
  for (int64_t k = 0; k <= num_steps; ++k) {
    const double uniform = static_cast<double>(k) / static_cast<double>(num_steps);
    found.push_back(uniform / (1 + (shift - 1) * (1 - uniform)));
  }
  return found;
}

bool is_solver(const std::string& name) { return solver_of(name) != nullptr; }

std::string solver_names() {
  std::string names;
  for (const auto& [name, solver] : kSolvers) names += (names.empty() ? "" : ", ") + name;
  return names;
}

Flow::Flow(Velocity velocity, Latent noise, const FlowSettings& settings)
    : velocity_(std::move(velocity)),
      settings_(settings),
      timesteps_(timestep_schedule(settings.num_steps, settings.shift)),
      z_(std::move(noise)) {}

void Flow::step() {
  const double start = timesteps_[static_cast<size_t>(done_)];
  const double stop = timesteps_[static_cast<size_t>(done_) + 1];
  const bool is_guided = settings_.guides(start);
  if (was_guided_ != is_guided)
    past_.reset();  // with other guidance it is another field, whose velocities do not mix with the past ones
  was_guided_ = is_guided;
  const auto field = [&](const Latent& z, double t) {
    Latent found = velocity_(z, t, is_guided);
    check_sound(found.data(), found.size(), "velocities");
    return found;
  };
  Latent v = field(z_, start);
  const Step step{field, z_, v, start, stop, past_ ? &past_->velocity : nullptr, past_ ? past_->length : 0};
  Slope found = solver_of(settings_.solver)(step);
  z_ = moved(z_, stop - start, found.slope);
  newest_ = std::move(found.newest);
  past_ = Past{std::move(v), stop - start};
  ++done_;
}

Latent Flow::denoised() const { return moved(z_, 1 - timesteps_[static_cast<size_t>(done_)], newest_); }

}  // namespace je
