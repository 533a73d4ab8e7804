// Previews of unfinished images. Mirrors runtime/previews.py. Shapes: N codes, Z latent channels, H, W latent cells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cancel.hpp"
#include "engines.hpp"
#include "flow.hpp"
#include "pixels.hpp"

namespace je {

// Return components that are to be opened, with the preview decoder if previews are wanted and the bundle has one.
std::vector<std::string> with_previews(const Engines& engines, std::vector<std::string> names, bool are_wanted);

// Return what the first codes of an image show. By the linear map, which a bundle without a preview decoder has, the
// other cells are grey.
Image preview_of_codes(Engines& engines, const std::vector<int64_t>& codes, size_t drawn, const Cancel& cancel);

// Return what an unfinished latent (Z, H, W) shows.
Image preview_of_latent(Engines& engines, const Latent& latent, const Cancel& cancel);

}  // namespace je
