#include "core/transform/hadamard.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <memory>
#include <utility>

#include "core/transform/hadamard_kernels.h"
#include "core/transform/small_hadamard.h"
#include "hwy/aligned_allocator.h"

namespace quantloom {
namespace {

// A small factor has an even order, 4 times an odd number, so at most 31 of them divide a size.
constexpr size_t kMaxFactors = 32;

// Writes `odd` as a product of exactly `count` odd numbers d, none above `limit`, each with a small
// Hadamard matrix of order 4 d; large ones are tried first.
bool SplitOdd(size_t odd, size_t count, size_t limit, std::vector<size_t>& orders) {
  if (count == 0) return odd == 1;
  for (size_t d = std::min(limit, odd); d >= 3; d -= 2) {
    if (odd % d != 0 || !HasSmallHadamard(4 * d)) continue;
    orders.push_back(4 * d);
    if (SplitOdd(odd / d, count - 1, d, orders)) return true;
    orders.pop_back();
  }
  return false;
}

// The divisors of an odd number, descending.
std::vector<size_t> OddDivisors(size_t odd) {
  std::vector<size_t> low, high;
  for (size_t d = 1; d <= odd / d; d += 2) {
    if (odd % d != 0) continue;
    low.push_back(d);
    if (d != odd / d) high.push_back(odd / d);
  }
  high.insert(high.end(), low.rbegin(), low.rend());
  return high;
}

std::vector<uint8_t> EncodeSigns(const std::vector<int8_t>& matrix, size_t order, bool transposed) {
  std::vector<uint8_t> codes(order * order / 4);
  for (size_t i = 0; i < order; ++i) {
    for (size_t j = 0; j < order; ++j) {
      const int8_t entry = transposed ? matrix[j * order + i] : matrix[i * order + j];
      codes[(i * order + j) / 4] |= (entry < 0 ? 1 : 0) << (j % 4);
    }
  }
  return codes;
}

}  // namespace

size_t HadamardFactors::block() const {
  size_t order = power;
  for (const size_t factor : small) order *= factor;
  return order;
}

HadamardFactors FactorHadamard(size_t size, HadamardBlocks blocks) {
  HadamardFactors result;
  if (size == 0) return result;
  const size_t power = size & (~size + 1);  // the largest power of two that divides size
  if (blocks == HadamardBlocks::k128) {
    result.power = std::min(power, size_t{128});
    return result;
  }
  // Each small factor takes a 4 of the power of two.
  size_t most = 0;
  for (size_t rest = power; rest >= 4; rest /= 4) ++most;
  for (const size_t odd : OddDivisors(size / power)) {
    for (size_t count = 0; count <= most; ++count) {
      if (!SplitOdd(odd, count, kMaxSmallHadamardOrder / 4, result.small)) continue;
      result.power = power >> (2 * count);
      return result;
    }
  }
  return result;  // not reached: 1 divides and needs no factor
}

HadamardTransform::HadamardTransform(size_t size, HadamardBlocks blocks, std::vector<float> signs)
    : size_(size), factors_(FactorHadamard(size, blocks)), signs_(std::move(signs)) {
  assert(signs_.empty() || signs_.size() == size_);
  for (const size_t order : factors_.small) {
    const std::vector<int8_t> matrix = SmallHadamard(order);
    forward_.push_back(EncodeSigns(matrix, order, false));
    transposed_.push_back(EncodeSigns(matrix, order, true));
  }
}

template <class F>
void HadamardTransform::WithBlock(Direction direction, size_t first, const F& run) const {
  const bool forward = direction == Direction::kForward;
  const Codes& codes = forward ? forward_ : transposed_;
  std::array<SignCodes, kMaxFactors> factors;
  for (size_t f = 0; f < codes.size(); ++f) factors[f] = {factors_.small[f], codes[f].data()};
  const size_t order = factors_.block();
  const float* signs = signs_.empty() ? nullptr : signs_.data() + first;
  run(HadamardBlock{factors.data(), codes.size(), factors_.power, order,
                    1.0 / std::sqrt(static_cast<double>(order)), forward ? signs : nullptr,
                    forward ? nullptr : signs});
}

template <typename T>
void HadamardTransform::Vector(Direction direction, T* x) const {
  const size_t order = factors_.block();
  for (size_t first = 0; first < size_; first += order) {
    WithBlock(direction, first,
              [&](const HadamardBlock& block) { TransformVector(block, x + first); });
  }
}

template <typename T>
void HadamardTransform::RowsOf(Direction direction, absl::Span<T> x, ThreadTeam& team) const {
  if (x.empty()) return;
  assert(x.size() % size_ == 0);
  constexpr size_t kElements = 16384;  // of one range: tens of microseconds
  team.ParallelFor(x.size() / size_, kElements / size_, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) Vector(direction, x.data() + r * size_);
  });
}

template <typename T>
void HadamardTransform::ColumnsOf(Direction direction, absl::Span<T> x, ThreadTeam& team) const {
  if (x.empty()) return;
  assert(x.size() % size_ == 0);
  constexpr size_t kWidth = kPanelColumns<T>;
  const size_t cols = x.size() / size_, order = factors_.block();
  const size_t panels = (cols + kWidth - 1) / kWidth;
  // One panel of one block at a time is gathered, transformed and put back.
  std::vector<hwy::AlignedFreeUniquePtr<T[]>> gathered(team.size());
  const auto transform = [&](size_t first, size_t col, T* panel) {
    const size_t width = std::min(kWidth, cols - col);
    for (size_t i = 0; i < order; ++i) {
      const T* from = x.data() + (first + i) * cols + col;
      std::fill(std::copy(from, from + width, panel + i * kWidth), panel + (i + 1) * kWidth, T{0});
    }
    WithBlock(direction, first, [&](const HadamardBlock& block) { TransformPanel(block, panel); });
    for (size_t i = 0; i < order; ++i) {
      const T* from = panel + i * kWidth;
      std::copy(from, from + width, x.data() + (first + i) * cols + col);
    }
  };
  team.ParallelFor(panels * (size_ / order), 1, [&](size_t begin, size_t end, int worker) {
    auto& panel = gathered[worker];
    if (panel == nullptr) panel = hwy::AllocateAligned<T>(order * kWidth);
    for (size_t i = begin; i < end; ++i) {
      transform(i / panels * order, i % panels * kWidth, panel.get());
    }
  });
}

void HadamardTransform::Apply(Direction direction, absl::Span<float> x) const {
  assert(x.size() == size_);
  Vector(direction, x.data());
}
void HadamardTransform::ApplyToRows(Direction direction, absl::Span<float> x,
                                    ThreadTeam& team) const {
  RowsOf(direction, x, team);
}
void HadamardTransform::ApplyToRows(Direction direction, absl::Span<double> x,
                                    ThreadTeam& team) const {
  RowsOf(direction, x, team);
}
void HadamardTransform::ApplyToColumns(Direction direction, absl::Span<float> x,
                                       ThreadTeam& team) const {
  ColumnsOf(direction, x, team);
}
void HadamardTransform::ApplyToColumns(Direction direction, absl::Span<double> x,
                                       ThreadTeam& team) const {
  ColumnsOf(direction, x, team);
}

}  // namespace quantloom
