#include "core/rounding/hessian.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "core/rounding/panel_product.h"
#include "core/rounding/triangle.h"

namespace quantloom {
namespace {

// Tokens packed at a time: bounds the copy of the inputs (117 MB at n = 28 672), and each block of
// H is loaded and stored once per this many.
constexpr uint64_t kPackTokens = 4 * Hessian::kChunkTokens;

}  // namespace

Hessian::Hessian(uint64_t n) : n_(n), data_(n * n) {}

Hessian::Hessian(uint64_t n, std::vector<double> data, uint64_t tokens)
    : n_(n), tokens_(tokens), data_(std::move(data)) {
  assert(data_.size() == n * n);
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < i; ++j) data_[j * n + i] = data_[i * n + j];
  }
}

void Hessian::Accumulate(absl::Span<const float> inputs, ThreadTeam& team) {
  assert(n_ > 0 && inputs.size() % n_ == 0);
  const uint64_t tokens = inputs.size() / n_;
  for (uint64_t t = 0; t < tokens; t += kPackTokens) {
    AddTokens(inputs.data() + t * n_, std::min(kPackTokens, tokens - t), team);
  }
  tokens_ += tokens;
}

void Hessian::AddTokens(const float* inputs, uint64_t tokens, ThreadTeam& team) {
  constexpr size_t kWidth = kPanelColumns;
  const size_t panels = PanelCount(n_);
  packed_.resize(panels * tokens * kWidth);
  team.ParallelFor(panels, 1, [&](size_t begin, size_t end, int) {
    for (size_t p = begin; p < end; ++p) {
      const size_t columns = std::min<size_t>(kWidth, n_ - p * kWidth);
      float* panel = packed_.data() + p * tokens * kWidth;
      for (uint64_t t = 0; t < tokens; ++t) {
        const float* row = inputs + t * n_ + p * kWidth;
        std::fill(std::copy_n(row, columns, panel + t * kWidth), panel + (t + 1) * kWidth, 0.0f);
      }
    }
  });

  team.ParallelFor(TriangleSize(panels), 1, [&](size_t begin, size_t end, int) {
    alignas(64) float chunk_sum[kWidth * kWidth];
    for (size_t index = begin; index < end; ++index) {
      const auto [block_row, block_column] = TrianglePosition(index);
      const size_t rows = std::min<size_t>(kWidth, n_ - block_row * kWidth);
      const size_t columns = std::min<size_t>(kWidth, n_ - block_column * kWidth);
      double* block = data_.data() + block_row * kWidth * n_ + block_column * kWidth;
      for (uint64_t t = 0; t < tokens; t += kChunkTokens) {
        std::fill(std::begin(chunk_sum), std::end(chunk_sum), 0.0f);
        AddPanelProduct(packed_.data() + (block_row * tokens + t) * kWidth,
                        packed_.data() + (block_column * tokens + t) * kWidth,
                        std::min(kChunkTokens, tokens - t), rows, chunk_sum);
        for (size_t i = 0; i < rows; ++i) {
          for (size_t j = 0; j < columns; ++j) {
            block[i * n_ + j] += static_cast<double>(chunk_sum[i * kWidth + j]);
          }
        }
      }
      double* mirrored = data_.data() + block_column * kWidth * n_ + block_row * kWidth;
      for (size_t j = 0; j < columns; ++j) {
        for (size_t i = 0; i < rows; ++i) mirrored[j * n_ + i] = block[i * n_ + j];
      }
    }
  });
}

std::vector<double> Hessian::Release() && {
  n_ = tokens_ = 0;
  return std::exchange(data_, {});
}

std::vector<double> Hessian::Diagonal() const {
  std::vector<double> diagonal(n_);
  for (uint64_t i = 0; i < n_; ++i) diagonal[i] = at(i, i);
  return diagonal;
}

std::vector<float> Hessian::MeanSquares() const {
  std::vector<float> means(n_);
  for (uint64_t i = 0; i < n_ && tokens_ > 0; ++i) {
    means[i] = static_cast<float>(at(i, i) / static_cast<double>(tokens_));
  }
  return means;
}

}  // namespace quantloom
