// Rectified flow: from noise at t = 0 to a finished latent at t = 1 (docs/sampling.md). Mirrors runtime/flow.py.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace je {

using Latent = std::vector<float>;

// A function that returns the velocity at a point z and time t. is_guided: whether guidance is on.
using Velocity = std::function<Latent(const Latent& z, double t, bool is_guided)>;

// Settings of a flow; docs/sampling.md defines them.
struct FlowSettings {
  double guidance_scale = 1;
  int64_t num_steps = 1;
  std::string solver = "euler";
  double shift = 1, guidance_start = 0, guidance_end = 1;

  // Return true if guidance is on at time t.
  bool guides(double t) const { return guidance_scale != 1 && guidance_start <= t && t < guidance_end; }
};

// Return the num_steps + 1 timesteps, rising from exactly 0 to exactly 1.
std::vector<double> timestep_schedule(int64_t num_steps, double shift);

// Return true if there is a solver of this name.
bool is_solver(const std::string& name);

// Return the names of all solvers: "euler, ab2, heun".
std::string solver_names();

// The path of one image from noise to latent, one step at a time.
class Flow {
 public:
  Flow(Velocity velocity, Latent noise, const FlowSettings& settings);

  // Return true if all steps are done.
  bool is_done() const { return done_ == settings_.num_steps; }

  // Return the number of steps done.
  int64_t done() const { return done_; }

  // Do the next step. Throws Error JE_E_BUNDLE if a velocity is not finite, and what the velocity function throws.
  void step();

  // Return the current point.
  const Latent& z() const { return z_; }

  // Return the end of the path if the newest velocity stayed the same: what a preview shows.
  Latent denoised() const;

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
