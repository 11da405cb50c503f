// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3"). Draw k of a seed is a pure function of (seed, k): no state to carry through
// preemption, batching or a restart.
#pragma once

#include <array>
#include <cstdint>

namespace quantloom {

constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                             std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

// 64 uniform bits.
constexpr uint64_t UniformBits(uint64_t seed, uint64_t draw) {
  const auto bits =
      Philox4x32({static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return uint64_t{bits[1]} << 32 | bits[0];
}

// Uniform in [0, 1), the same draw's first 53 bits.
constexpr double UniformDraw(uint64_t seed, uint64_t draw) {
  return static_cast<double>(UniformBits(seed, draw) >> 11) * 0x1p-53;
}

}  // namespace quantloom
