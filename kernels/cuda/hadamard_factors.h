// What TransformRows needs of a transform, made on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "core/transform/hadamard.h"
#include "kernels/cuda/hadamard.h"

namespace quantloom::cuda {

// The factors' signs, in host memory.
struct HadamardSigns {
  struct Factor {
    uint32_t order;
    uint32_t inner;
    size_t first;  // word of `words`
  };
  std::vector<Factor> factors;  // innermost first
  std::vector<uint32_t> words;
  uint32_t power = 1;
  uint32_t cols = 0;
  float scale = 1;

  // Of a copy of `words` on a device, or of the vector itself.
  HadamardView View(const uint32_t* words_at, const float* before, const float* after) const;
};

// Of H or its transpose, on rows of `cols` elements.
HadamardSigns MakeHadamardSigns(size_t cols, HadamardBlocks blocks, Direction direction);

}  // namespace quantloom::cuda
