#include "kernels/cuda/hadamard_factors.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "core/transform/small_hadamard.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kWordBits = 32;
constexpr size_t kMaxSylvesterFactor = 128;  // the largest power of two that a stored factor may be

// Adds a factor outside of those there are. Entry (row, column) is -1 where `negative` says so.
template <class Negative>
void AddFactor(size_t order, const Negative& negative, HadamardSigns& signs) {
  const size_t inner = signs.factors.empty()
                           ? signs.power
                           : size_t{signs.factors.back().inner} * signs.factors.back().order;
  signs.factors.push_back(
      {static_cast<uint32_t>(order), static_cast<uint32_t>(inner), signs.words.size()});
  for (size_t row = 0; row < order; ++row) {
    for (size_t first = 0; first < order; first += kWordBits) {
      uint32_t word = 0;
      for (size_t c = first; c < std::min(order, first + kWordBits); ++c) {
        word |= (negative(row, c) ? 1u : 0u) << (c - first);
      }
      signs.words.push_back(word);
    }
  }
}

}  // namespace

HadamardView HadamardSigns::View(const uint32_t* words_at, const float* before,
                                 const float* after) const {
  HadamardView view = {};
  for (const Factor& factor : factors) {
    view.factors[view.factor_count++] = {words_at + factor.first, factor.order, factor.inner};
  }
  view.power = power;
  view.cols = cols;
  view.scale = scale;
  view.before = before;
  view.after = after;
  return view;
}

HadamardSigns MakeHadamardSigns(size_t cols, HadamardBlocks blocks, Direction direction) {
  const HadamardFactors of_size = FactorHadamard(cols, blocks);
  HadamardSigns signs;
  signs.cols = static_cast<uint32_t>(cols);
  signs.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(of_size.block())));
  signs.power = static_cast<uint32_t>(std::min<size_t>(of_size.power, kMaxSylvester));
  for (size_t rest = of_size.power / signs.power; rest > 1;) {
    const size_t order = std::min(rest, kMaxSylvesterFactor);
    AddFactor(
        order, [](size_t row, size_t c) { return std::popcount(row & c) % 2 != 0; }, signs);
    rest /= order;
  }
  for (auto order = of_size.small.rbegin(); order != of_size.small.rend(); ++order) {
    const std::vector<int8_t> matrix = SmallHadamard(*order);
    AddFactor(
        *order,
        [&](size_t row, size_t c) {
          return (direction == Direction::kForward ? matrix[row * *order + c]
                                                   : matrix[c * *order + row]) < 0;
        },
        signs);
  }
  assert(signs.factors.size() <= kMaxHadamardFactors);
  return signs;
}

}  // namespace quantloom::cuda
