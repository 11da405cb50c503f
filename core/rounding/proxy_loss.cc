#include "core/rounding/proxy_loss.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <vector>

#include "core/rounding/panel_product.h"

namespace quantloom {
namespace {

constexpr size_t kWidth = kPanelColumns;
constexpr size_t kChunk = 256;      // see ldlq.cc
constexpr size_t kSlabPanels = 16;  // row panels that share one packed panel of H

// tr(M H M^T) for M^T = a - b [cols, rows] (b may be empty: zeros).
class QuadraticForm {
 public:
  QuadraticForm(const Hessian& hessian, absl::Span<const float> a, absl::Span<const float> b,
                uint64_t rows)
      : hessian_(hessian), a_(a), b_(b), rows_(rows), cols_(hessian.size()) {}

  double Sum(ThreadTeam& team) {
    const size_t row_panels = PanelCount(rows_), column_panels = PanelCount(cols_);
    std::vector<double> partial(column_panels);
    slab_.resize(std::min(kSlabPanels, row_panels) * cols_ * kWidth);
    for (size_t first = 0; first < row_panels; first += kSlabPanels) {
      const size_t count = std::min(kSlabPanels, row_panels - first);
      team.ParallelFor(count, 1, [&](size_t begin, size_t end, int) {
        for (size_t p = begin; p < end; ++p) Pack(first + p, slab_.data() + p * cols_ * kWidth);
      });
      team.ParallelFor(column_panels, 1, [&](size_t begin, size_t end, int) {
        std::vector<double> h(cols_ * kWidth);
        for (size_t c = begin; c < end; ++c) {
          PackHessian(c, h.data());
          for (size_t p = 0; p < count; ++p) {
            partial[c] += PanelSum(c, h.data(), slab_.data() + p * cols_ * kWidth);
          }
        }
      });
    }
    double sum = 0;
    for (const double part : partial) sum += part;
    return sum;
  }

 private:
  // Row panel p of M as [cols, 48], zeros past the last row.
  void Pack(size_t p, double* panel) const {
    const size_t count = std::min<size_t>(kWidth, rows_ - p * kWidth);
    for (uint64_t c = 0; c < cols_; ++c, panel += kWidth) {
      const uint64_t at = c * rows_ + p * kWidth;
      for (size_t r = 0; r < kWidth; ++r) {
        panel[r] = r >= count ? 0.0
                              : static_cast<double>(a_[at + r]) -
                                    (b_.empty() ? 0.0 : static_cast<double>(b_[at + r]));
      }
    }
  }

  // Columns [48 c, 48 c + 48) of H as [cols, 48].
  void PackHessian(size_t c, double* panel) const {
    const size_t count = std::min<size_t>(kWidth, cols_ - c * kWidth);
    for (uint64_t row = 0; row < cols_; ++row, panel += kWidth) {
      const double* from = hessian_.data().data() + row * cols_ + c * kWidth;
      std::fill(std::copy_n(from, count, panel), panel + kWidth, 0.0);
    }
  }

  // The part of the trace that column panel c and one row panel of M make.
  double PanelSum(size_t c, const double* h, const double* m) const {
    const size_t columns = std::min<size_t>(kWidth, cols_ - c * kWidth);
    alignas(64) double products[kWidth * kWidth] = {};  // (M H)^T, [columns, 48 rows]
    for (uint64_t k = 0; k < cols_; k += kChunk) {
      AddPanelProduct(h + k * kWidth, m + k * kWidth, std::min(kChunk, cols_ - k), columns,
                      products);
    }
    double sums[kWidth] = {};
    const double* own = m + c * kWidth * kWidth;
    for (size_t i = 0; i < columns; ++i) {
      for (size_t r = 0; r < kWidth; ++r) sums[r] += own[i * kWidth + r] * products[i * kWidth + r];
    }
    double sum = 0;
    for (const double part : sums) sum += part;
    return sum;
  }

  const Hessian& hessian_;
  absl::Span<const float> a_;
  absl::Span<const float> b_;
  const uint64_t rows_;
  const uint64_t cols_;
  std::vector<double> slab_;  // [row panel][cols][48]
};

}  // namespace

double ProxyLoss(const Hessian& hessian, absl::Span<const float> weights_t,
                 absl::Span<const float> decoded_t, uint64_t rows, ThreadTeam& team) {
  assert(weights_t.size() == hessian.size() * rows && decoded_t.size() == weights_t.size());
  const double loss = QuadraticForm(hessian, weights_t, decoded_t, rows).Sum(team);
  const double norm = QuadraticForm(hessian, weights_t, {}, rows).Sum(team);
  if (norm > 0) return loss / norm;
  return loss > 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

double RelativeError(absl::Span<const float> weights_t, absl::Span<const float> decoded_t,
                     uint64_t rows, absl::Span<const float> importance) {
  double error = 0, signal = 0;
  for (uint64_t c = 0; c * rows < weights_t.size(); ++c) {
    double column_error = 0, column_signal = 0;
    for (uint64_t i = c * rows; i < (c + 1) * rows; ++i) {
      const double value = static_cast<double>(weights_t[i]);
      const double miss = value - static_cast<double>(decoded_t[i]);
      column_error += miss * miss;
      column_signal += value * value;
    }
    const double weight = importance.empty() ? 1 : static_cast<double>(importance[c]);
    error += weight * column_error;
    signal += weight * column_signal;
  }
  return signal == 0 ? 0 : error / signal;
}

}  // namespace quantloom
