// Constants of the format tokenizer.bin (docs/bundle.md).
#pragma once

#include <cstdint>

namespace je {

inline constexpr uint32_t kVersion = 1, kNoToken = 0xFFFFFFFF;
inline constexpr uint32_t kSpecial = 1, kNormalized = 2;                // flags of added tokens
inline constexpr uint32_t kClass = 0, kContracted = 1;                  // kinds of steps
inline constexpr uint32_t kOptionalSpace = 1, kRun = 2, kToTheEnd = 4;  // flags of steps of kind kClass

}  // namespace je
