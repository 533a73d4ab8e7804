// Rectified flow: from noise at t = 0 to a finished latent at t = 1 (docs/sampling.md). Equal to runtime/flow.py.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace je {

using Latent = std::vector<float>;

// A point, t and whether to guide, to the velocity there.
using Velocity = std::function<Latent(const Latent& z, double t, bool is_guided)>;

struct FlowSettings {
  double guidance_scale = 1;
  int64_t num_steps = 1;
  std::string solver = "euler";
  double shift = 1, guidance_start = 0, guidance_end = 1;

  bool guides(double t) const { return guidance_scale != 1 && guidance_start <= t && t < guidance_end; }
};

// The steps' timesteps, rising from exactly 0 to exactly 1.
std::vector<double> timestep_schedule(int64_t num_steps, double shift);

bool is_solver(const std::string& name);
std::string solver_names();  // "euler, ab2, heun"

// One drawing, a step at a time.
class Flow {
 public:
  Flow(Velocity velocity, Latent noise, const FlowSettings& settings);

  bool is_done() const { return done_ == settings_.num_steps; }
  int64_t done() const { return done_; }
  void step();

  const Latent& z() const { return z_; }
  Latent denoised() const;  // what it would end as if the newest velocity held

 private:
  struct Past {
    Latent velocity;
    double length;
  };
  Velocity velocity_;
  FlowSettings settings_;
  std::vector<double> timesteps_;
  Latent z_, newest_;
  std::optional<Past> past_;
  std::optional<bool> was_guided_;
  int64_t done_ = 0;
};

}  // namespace je
