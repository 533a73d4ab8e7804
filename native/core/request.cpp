#include "request.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "overlap.hpp"
#include "passes.hpp"

namespace je {
namespace {

constexpr uint64_t kMostSeed = INT64_MAX;
constexpr int64_t kMostImages = 1024, kMostTokens = int64_t{1} << 31;

template <class Number>
void check_range(const char* name, Number value, Number least, Number most) {
  if (!(value >= least && value <= most))  // NaN is outside every range
    fail(JE_E_ARGUMENT, name, " is ", value, "; give a value from ", least, " to ", most);
}

// A setting of a request. to: where its value goes; nullptr: this model family does not have the setting.
struct Setting {
  const char* name;
  double value;
  bool is_set;
  double least, most;
  double* to;
};

Setting number(const char* name, double value, double least, double most, double* to) {
  return {name, value, !std::isnan(value), least, most, to};
}

[[noreturn]] void refuse_setting(const char* name, const Manifest& manifest) {
  fail(JE_E_ARGUMENT, name, " means nothing to ", manifest.name, ", a ", manifest.is_flow ? "janusflow" : "janus",
       " bundle; leave it out");
}

// Copy the settings that the request sets to `sampling`. The others keep their values.
void take_settings(const je_request& request, const Manifest& manifest, Sampling& sampling) {
  double top_k = static_cast<double>(sampling.top_k), steps = static_cast<double>(sampling.num_steps);
  const auto of = [&](bool is_flow, double* to) { return manifest.is_flow == is_flow ? to : nullptr; };
  const Setting settings[] = {
      number("guidance_scale", request.guidance_scale, 0, 100, &sampling.guidance_scale),
      number("temperature", request.temperature, 0, 100, of(false, &sampling.temperature)),
      {"top_k", static_cast<double>(request.top_k), request.top_k != -1, 0, 0x1p31, of(false, &top_k)},
      number("top_p", request.top_p, 1e-6, 1, of(false, &sampling.top_p)),
      {"num_steps", static_cast<double>(request.num_steps), request.num_steps != -1, 1, 10000, of(true, &steps)},
      number("shift", request.shift, 0.01, 100, of(true, &sampling.shift)),
      number("guidance_start", request.guidance_start, 0, 1, of(true, &sampling.guidance_start)),
      number("guidance_end", request.guidance_end, 0, 1, &sampling.guidance_end),
  };
  for (const Setting& each : settings) {
    if (!each.is_set) continue;
    check_range(each.name, each.value, each.least, each.most);
    if (each.to == nullptr) refuse_setting(each.name, manifest);
    *each.to = each.value;
  }
  sampling.top_k = static_cast<int64_t>(top_k);
  sampling.num_steps = static_cast<int64_t>(steps);
  if (request.solver == nullptr) return;
  if (!is_solver(request.solver))
    fail(JE_E_ARGUMENT, "solver is \"", request.solver, "\"; give one of ", solver_names());
  if (!manifest.is_flow) refuse_setting("solver", manifest);
  sampling.solver = request.solver;
}

void check_length(const char* what, const Ids& ids, int64_t follows, const Sizes& sizes, bool has_history) {
  const int64_t room = sizes.max_length - follows;
  if (static_cast<int64_t>(ids.size()) <= room) return;
  fail(JE_E_ARGUMENT, has_history ? "the conversation and the " : "the ", what, has_history ? " are " : " is ",
       ids.size(), " tokens long, the model's context has room for ", room,
       has_history ? "; begin a new conversation" : "; make it shorter");
}

std::string text_of(const char* given, const char* name) {
  if (given == nullptr) fail(JE_E_ARGUMENT, name, " is NULL; give a text");
  return well_formed(given);  // bytes that are not UTF-8 become U+FFFD
}

// Check a list and its length.
template <class Item>
void check_list(const Item* items, size_t count, const char* name, int64_t most) {
  if (count > 0 && items == nullptr) fail(JE_E_ARGUMENT, name, " is NULL; its number is ", count);
  check_range(name, static_cast<int64_t>(std::min<size_t>(count, INT64_MAX)), int64_t{0}, most);
}

// Return the turns of the history. Set *num_images to how many images they are about.
std::vector<Turn> history_of(const je_request& request, size_t* num_images) {
  std::vector<Turn> turns;
  *num_images = 0;
  for (size_t i = 0; i < request.num_history; ++i) {
    const je_turn& turn = request.history[i];
    if (turn.answer == nullptr) fail(JE_E_ARGUMENT, "a turn of the history has no answer; ask its question first");
    turns.push_back({text_of(turn.message, "message"), turn.num_images, text_of(turn.answer, "answer")});
    if (turn.num_images > request.num_input_images - *num_images)
      fail(JE_E_ARGUMENT, "the history is about more images than the ", request.num_input_images,
           " that are there; give those of all turns");
    *num_images += turn.num_images;
  }
  return turns;
}

std::vector<Image> images_of(const je_request& request) {
  std::vector<Image> images;
  for (size_t i = 0; i < request.num_input_images; ++i) images.push_back(to_rgb(request.input_images[i]));
  return images;
}

std::vector<PlannedImage> plan_images(const je_request& request, const Engines& engines) {
  std::vector<std::string> prompts{text_of(request.prompt, "prompt")};
  for (size_t i = 0; i < request.num_more_prompts; ++i)
    prompts.push_back(text_of(request.more_prompts[i], "more_prompts"));
  size_t num_images;
  const std::vector<Turn> history = history_of(request, &num_images);
  if (num_images != request.num_input_images)
    fail(JE_E_ARGUMENT, "the history is about ", num_images, " images, ", request.num_input_images,
         " are there; give those of its turns");
  std::vector<PlannedImage> found;
  for (const std::string& prompt : prompts) {
    const Ids ids = engines.bundle().encoder->generation(prompt, history, engines.sizes().num_image_tokens);
    check_length("prompt", ids, engines.sizes().num_drawn(), engines.sizes(), !history.empty());
    for (int32_t i = 0; i < request.num_images; ++i)
      found.push_back({static_cast<int64_t>(found.size()), request.seed + static_cast<uint64_t>(i), ids});
  }
  return found;
}

// Refuse a setting that asks for more positions than the decoder computes at once.
void check_positions(const char* name, int64_t value, int64_t positions, const Engines& engines) {
  if (positions <= 1) return;
  const int64_t most = engines.bundle().component("decoder").profile.at("T").most;
  if (positions > most)
    fail(JE_E_ARGUMENT, name, " is ", value, "; this bundle's decoder takes at most ", most, " at once");
  const bool is_graph = !engines.uses_cpu_kernels() && !engines.uses_cuda_kernels();
  if (is_graph && engines.bundle().is_decoder_for_cpu() && !engines.device().is_cpu())
    fail(JE_E_ARGUMENT, name, " is ", value, ": on ", engines.device().text(),
         " this needs a bundle exported with --lowering portable; leave it out");
}

void check_window(int32_t window, const Engines& engines) {
  const int64_t grid = engines.sizes().code_grid;
  if (window > grid) fail(JE_E_ARGUMENT, "window is ", window, "; a row of this bundle has ", grid, " codes");
  size_t most = 0;
  if (window > 0)
    for (const Step& each : steps_of(static_cast<size_t>(grid), static_cast<size_t>(window)))
      most = std::max(most, each.places.size());
  check_positions("window", window, static_cast<int64_t>(most), engines);
}

std::unique_ptr<Task> start_drawing(std::shared_ptr<Engines> engines, const je_request& request) {
  check_list(request.more_prompts, request.num_more_prompts, "more_prompts", kMostImages - 1);
  check_list(request.input_images, request.num_input_images, "input_images", kMostImages);
  check_list(request.history, request.num_history, "history", kMostTokens);
  check_range("num_images", int64_t{request.num_images}, int64_t{1}, kMostImages);
  check_range("seed", request.seed, uint64_t{0}, kMostSeed - static_cast<uint64_t>(request.num_images - 1));
  const Manifest& manifest = engines->bundle().manifest;
  Sampling chosen = request.reference != 0 ? reference_sampling(manifest.is_flow) : manifest.sampling;
  check_range("parallel", int64_t{request.parallel}, int64_t{0}, kMostWidth);
  check_range("window", int64_t{request.window}, int64_t{0}, int64_t{4096});
  take_settings(request, manifest, chosen);
  if (request.parallel != 0 && manifest.is_flow) refuse_setting("parallel", manifest);
  if (request.window != 0 && manifest.is_flow) refuse_setting("window", manifest);
  Drawing drawing{plan_images(request, *engines), images_of(request), request.previews != 0};
  if (manifest.is_flow) {
    const FlowSettings settings{chosen.guidance_scale, chosen.num_steps,      chosen.solver,
                                chosen.shift,          chosen.guidance_start, chosen.guidance_end};
    return draw_flow(std::move(engines), settings, std::move(drawing));
  }
  check_window(request.window, *engines);
  check_positions("parallel", request.parallel, request.parallel, *engines);
  const CodeSettings settings{chosen.guidance_scale,
                              {chosen.temperature, chosen.top_p, chosen.top_k},
                              request.parallel,
                              request.window,
                              chosen.guidance_end};
  return draw_codes(std::move(engines), settings, std::move(drawing));
}

std::unique_ptr<Task> start_asking(std::shared_ptr<Engines> engines, const je_request& request) {
  check_list(request.input_images, request.num_input_images, "input_images", kMostImages);
  check_list(request.history, request.num_history, "history", kMostTokens);
  check_range("max_tokens", int64_t{request.max_tokens}, int64_t{1}, kMostTokens);
  check_range("seed", request.seed, uint64_t{0}, kMostSeed);
  Question question;
  question.max_tokens = request.max_tokens;
  question.seed = request.seed;
  if (!std::isnan(request.temperature)) question.choice.temperature = request.temperature;
  if (!std::isnan(request.top_p)) question.choice.top_p = request.top_p;
  check_range("temperature", question.choice.temperature, 0.0, 100.0);
  check_range("top_p", question.choice.top_p, 1e-6, 1.0);
  check_range("parallel", int64_t{request.parallel}, int64_t{0}, kMostWidth);
  check_positions("parallel", request.parallel, request.parallel, *engines);
  question.parallel = request.parallel;
  const Sizes& sizes = engines->sizes();
  size_t num_images;
  std::vector<Turn> turns = history_of(request, &num_images);
  turns.push_back({text_of(request.prompt, "prompt"), request.num_input_images - num_images, std::nullopt});
  question.ids = engines->bundle().encoder->conversation(turns, sizes.num_image_tokens);
  check_length("question", question.ids, 1, sizes, turns.size() > 1);
  question.images = images_of(request);
  return answer(std::move(engines), std::move(question));
}

// Refuse settings that belong to the other task.
void check_unset(std::initializer_list<std::pair<const char*, bool>> settings, const char* task) {
  for (const auto& [name, is_set] : settings)
    if (is_set) fail(JE_E_ARGUMENT, name, " means nothing to a request to ", task, "; leave it out");
}

}  // namespace

std::unique_ptr<Task> start_task(std::shared_ptr<Engines> engines, const je_request& request) {
  if (request.task == JE_TASK_DRAW) {
    check_unset({{"max_tokens", request.max_tokens != kUsualTokens}}, "draw");
    return start_drawing(std::move(engines), request);
  }
  if (request.task != JE_TASK_ASK) fail(JE_E_ARGUMENT, "task is ", request.task, "; give JE_TASK_DRAW or JE_TASK_ASK");
  check_unset({{"more_prompts", request.num_more_prompts > 0},
               {"num_images", request.num_images != 1},
               {"previews", request.previews != 0},
               {"reference", request.reference != 0},
               {"top_k", request.top_k != -1},
               {"window", request.window != 0},
               {"guidance_scale", !std::isnan(request.guidance_scale)},
               {"num_steps", request.num_steps != -1},
               {"solver", request.solver != nullptr},
               {"shift", !std::isnan(request.shift)},
               {"guidance_start", !std::isnan(request.guidance_start)},
               {"guidance_end", !std::isnan(request.guidance_end)}},
              "ask");
  return start_asking(std::move(engines), request);
}

}  // namespace je
