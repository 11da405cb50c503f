#include "core/rounding/block_ldl.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/rounding/cholesky.h"
#include "core/rounding/panel_product.h"

namespace quantloom {
namespace {

constexpr double kDamping = 0.01;       // of the mean diagonal
constexpr double kDampingRaise = 10.0;  // per failed factorization
// Pivots below this share of the mean diagonal are rounding errors of what damping should have
// raised to 0.01.
constexpr double kSmallestPivot = 1e-8;

absl::Status CheckFinite(const Hessian& hessian) {
  const uint64_t n = hessian.size();
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j <= i; ++j) {
      if (std::isfinite(hessian.at(i, j))) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("the Hessian's element [", i, ", ", j, "] is ", hessian.at(i, j)));
    }
  }
  return absl::OkStatus();
}

// Restores the lower half from the upper and sets the diagonal.
void Restore(std::vector<double>& a, const std::vector<double>& diagonal, double damping,
             ThreadTeam& team) {
  const uint64_t n = diagonal.size();
  team.ParallelFor(n, 64, [&](size_t begin, size_t end, int) {
    for (uint64_t i = begin; i < end; ++i) {
      for (uint64_t j = 0; j < i; ++j) a[i * n + j] = a[j * n + i];
      a[i * n + i] = diagonal[i] + damping;
    }
  });
}

}  // namespace

absl::StatusOr<BlockLdl> BlockLdl::Factor(Hessian hessian, uint64_t block, ThreadTeam& team) {
  if (block != 1 && block != 8 && block != 16) {
    return absl::InvalidArgumentError(absl::StrCat("block LDL of width ", block, "; 1, 8 or 16"));
  }
  const uint64_t n = hessian.size();
  if (n == 0) return absl::InvalidArgumentError("the Hessian is empty");
  if (absl::Status finite = CheckFinite(hessian); !finite.ok()) return finite;

  BlockLdl result(n, block);
  std::vector<double> diagonal = hessian.Diagonal();
  double sum = 0;
  for (uint64_t i = 0; i < n; ++i) {
    if (diagonal[i] > 0) {
      sum += diagonal[i];
    } else {
      result.dead_.push_back(i);
    }
  }
  const uint64_t live = n - result.dead_.size();
  const double mean = live == 0 ? 1.0 : sum / static_cast<double>(live);
  std::vector<double> a = std::move(hessian).Release();
  for (const uint64_t i : result.dead_) {
    diagonal[i] = mean;
    for (uint64_t j = 0; j < n; ++j) a[i * n + j] = a[j * n + i] = 0;
  }
  result.damping_ = kDamping * mean;
  while (true) {
    Restore(a, diagonal, result.damping_, team);
    if (CholeskyInPlace(a.data(), n, kSmallestPivot * mean, team)) break;
    // Ends: damping above the sum of a row's magnitudes makes the matrix diagonally dominant.
    result.damping_ *= kDampingRaise;
    ++result.attempts_;
    if (!std::isfinite(result.damping_)) {
      return absl::InvalidArgumentError("the Hessian's elements are too large to factor");
    }
  }
  result.SetFactors(a, team);
  return result;
}

void BlockLdl::SetFactors(const std::vector<double>& a, ThreadTeam& team) {
  uint64_t size = 0;
  for (uint64_t p = 0; p < PanelCount(n_); ++p) {
    panel_offsets_.push_back(size);
    size += (n_ - p * kPanelColumns) * kPanelColumns;
  }
  l_.resize(size);
  d_.resize(n_ * block_);
  team.ParallelFor(n_, 16, [&](size_t begin, size_t end, int) {
    for (uint64_t row = begin; row < end; ++row) {
      SetRowOfL(a, row);
      SetRowOfD(a, row);
    }
  });
}

void BlockLdl::SetRowOfL(const std::vector<double>& a, uint64_t row) {
  const auto l = [&](uint64_t column) -> float& {
    const uint64_t panel = column / kPanelColumns;
    return l_[panel_offsets_[panel] + (n_ - 1 - row) * kPanelColumns + column % kPanelColumns];
  };
  double solved[16];
  for (uint64_t first = 0; first < row / block_ * block_; first += block_) {
    // X C_ii = C_ji by backward substitution.
    for (uint64_t k = block_; k-- > 0;) {
      double value = a[row * n_ + first + k];
      for (uint64_t m = k + 1; m < block_; ++m) {
        value -= solved[m] * a[(first + m) * n_ + first + k];
      }
      solved[k] = value / a[(first + k) * n_ + first + k];
    }
    for (uint64_t k = 0; k < block_; ++k) l(first + k) = static_cast<float>(solved[k]);
  }
  l(row) = 1.0f;
}

void BlockLdl::SetRowOfD(const std::vector<double>& a, uint64_t row) {
  const uint64_t first = row / block_ * block_;
  const uint64_t end = std::min(first + block_, n_);
  for (uint64_t column = first; column < end; ++column) {
    double sum = 0;
    for (uint64_t k = first; k <= std::min(row, column); ++k) {
      sum += a[row * n_ + k] * a[column * n_ + k];
    }
    d_[row * block_ + column - first] = sum;
  }
}

float BlockLdl::L(uint64_t row, uint64_t column) const {
  const uint64_t panel = column / kPanelColumns;
  if (row < panel * kPanelColumns) return 0.0f;
  return Panel(panel)[(n_ - 1 - row) * kPanelColumns + column % kPanelColumns];
}

double BlockLdl::D(uint64_t row, uint64_t column) const {
  const uint64_t first = row / block_ * block_;
  return column < first || column - first >= block_ ? 0.0 : d_[row * block_ + column - first];
}

}  // namespace quantloom
