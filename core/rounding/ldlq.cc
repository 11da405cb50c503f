#include "core/rounding/ldlq.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "core/base/status.h"
#include "core/rounding/panel_product.h"

namespace quantloom {
namespace {

constexpr size_t kWidth = kPanelColumns;
// Rows of L and of errors multiplied at a time: two panels of them stay in the second-level cache
// while the register tiles pass over them.
constexpr size_t kChunk = 256;

// The run over one matrix. Rows are cut into row panels of 48; columns are handled by L's panels of
// 48: the feedback of all later panels is one product, that of the panel's own later columns is
// added block by block.
class LdlqRun {
 public:
  LdlqRun(const BlockLdl& ldl, absl::Span<const float> weights_t, uint64_t rows,
          absl::Span<float> decoded_t, ThreadTeam& team)
      : ldl_(ldl),
        weights_(weights_t),
        rows_(rows),
        cols_(ldl.size()),
        row_panels_(PanelCount(rows)),
        decoded_(decoded_t),
        team_(team),
        live_(cols_, true),
        errors_(row_panels_ * cols_ * kWidth),
        feedback_(row_panels_ * kWidth * kWidth),
        targets_(ldl.block() * rows) {
    for (const uint64_t column : ldl.dead()) live_[column] = false;
  }

  absl::Status Run(ColumnQuantizer& quantizer) {
    for (uint64_t panel = PanelCount(cols_); panel-- > 0;) {
      StartPanel(panel);
      const uint64_t begin = panel * kWidth, end = std::min(begin + kWidth, cols_);
      const uint64_t blocks = (end - begin + ldl_.block() - 1) / ldl_.block();
      for (uint64_t i = blocks; i-- > 0;) {
        const uint64_t first = begin + i * ldl_.block();
        const uint64_t last = std::min(first + ldl_.block(), end);
        SetTargets(panel, first, last);
        QL_RETURN_IF_ERROR(quantizer.Quantize(first, last - first, targets_.data(),
                                              decoded_.data() + first * rows_, team_));
        SetErrors(first, last);
      }
    }
    return absl::OkStatus();
  }

 private:
  // Errors of row panel p, [cols, 48], column cols - 1 first as in BlockLdl::Panel; zeros past the
  // last row.
  float* Errors(size_t p) { return errors_.data() + p * cols_ * kWidth; }
  // Feedback on the current panel's columns, [48 columns, 48 rows].
  float* Feedback(size_t p) { return feedback_.data() + p * kWidth * kWidth; }
  size_t RowsOf(size_t p) const { return std::min<size_t>(kWidth, rows_ - p * kWidth); }

  // Feedback from all columns behind the panel.
  void StartPanel(uint64_t panel) {
    const uint64_t end = std::min((panel + 1) * kWidth, cols_);
    const uint64_t behind = cols_ - end, columns = end - panel * kWidth;
    const float* l = ldl_.Panel(panel);
    std::fill(feedback_.begin(), feedback_.end(), 0.0f);
    team_.ParallelFor(row_panels_, 1, [&](size_t first, size_t last, int) {
      for (size_t p = first; p < last; ++p) {
        for (uint64_t k = 0; k < behind; k += kChunk) {
          AddPanelProduct(l + k * kWidth, Errors(p) + k * kWidth, std::min(kChunk, behind - k),
                          columns, Feedback(p));
        }
      }
    });
  }

  // targets_ of columns [first, last): adds the feedback of the panel's own columns from `last` on.
  void SetTargets(uint64_t panel, uint64_t first, uint64_t last) {
    const uint64_t panel_begin = panel * kWidth;
    const uint64_t panel_end = std::min(panel_begin + kWidth, cols_);
    const uint64_t behind = cols_ - panel_end;
    const float* l = ldl_.Panel(panel) + behind * kWidth + (first - panel_begin);
    team_.ParallelFor(row_panels_, 4, [&](size_t begin, size_t end, int) {
      for (size_t p = begin; p < end; ++p) {
        float* feedback = Feedback(p) + (first - panel_begin) * kWidth;
        AddPanelProduct(l, Errors(p) + behind * kWidth, panel_end - last, last - first, feedback);
        for (uint64_t c = first; c < last; ++c, feedback += kWidth) {
          const float* weights = weights_.data() + c * rows_ + p * kWidth;
          float* targets = targets_.data() + (c - first) * rows_ + p * kWidth;
          for (size_t r = 0; r < RowsOf(p); ++r) {
            targets[r] = live_[c] ? weights[r] + feedback[r] : 0.0f;
          }
        }
      }
    });
  }

  // W - What of columns [first, last).
  void SetErrors(uint64_t first, uint64_t last) {
    team_.ParallelFor(row_panels_, 16, [&](size_t begin, size_t end, int) {
      for (size_t p = begin; p < end; ++p) {
        for (uint64_t c = first; c < last; ++c) {
          if (!live_[c]) continue;  // no coupling: its errors are fed back to nobody
          const float* weights = weights_.data() + c * rows_ + p * kWidth;
          const float* decoded = decoded_.data() + c * rows_ + p * kWidth;
          float* errors = Errors(p) + (cols_ - 1 - c) * kWidth;
          for (size_t r = 0; r < RowsOf(p); ++r) errors[r] = weights[r] - decoded[r];
        }
      }
    });
  }

  const BlockLdl& ldl_;
  absl::Span<const float> weights_;  // [cols, rows]
  const uint64_t rows_;
  const uint64_t cols_;
  const size_t row_panels_;
  absl::Span<float> decoded_;  // [cols, rows]
  ThreadTeam& team_;
  std::vector<bool> live_;       // [cols]
  std::vector<float> errors_;    // [row panel][cols][48]
  std::vector<float> feedback_;  // [row panel][48][48]
  std::vector<float> targets_;   // [block, rows]
};

}  // namespace

std::vector<float> Transposed(absl::Span<const float> weights, uint64_t rows, uint64_t cols,
                              ThreadTeam& team, absl::Span<const uint32_t> order) {
  assert(order.empty() || order.size() == cols);
  std::vector<float> transposed(weights.size());
  team.ParallelFor(cols, 16, [&](size_t begin, size_t end, int) {
    for (uint64_t r = 0; r < rows; ++r) {
      const float* row = weights.data() + r * cols;
      for (size_t i = begin; i < end; ++i) {
        transposed[i * rows + r] = row[order.empty() ? i : order[i]];
      }
    }
  });
  return transposed;
}

absl::Status Ldlq(const BlockLdl& ldl, absl::Span<const float> weights_t, uint64_t rows,
                  ColumnQuantizer& quantizer, absl::Span<float> decoded_t, ThreadTeam& team) {
  assert(quantizer.width() == ldl.block());
  assert(weights_t.size() == ldl.size() * rows && decoded_t.size() == weights_t.size());
  return LdlqRun(ldl, weights_t, rows, decoded_t, team).Run(quantizer);
}

absl::Status RoundToNearest(absl::Span<const float> weights_t, uint64_t rows,
                            ColumnQuantizer& quantizer, absl::Span<float> decoded_t,
                            ThreadTeam& team) {
  assert(rows > 0 && weights_t.size() % rows == 0 && decoded_t.size() == weights_t.size());
  const uint64_t cols = weights_t.size() / rows, width = quantizer.width();
  for (uint64_t block = (cols + width - 1) / width; block-- > 0;) {
    const uint64_t first = block * width;
    QL_RETURN_IF_ERROR(quantizer.Quantize(first, std::min(width, cols - first),
                                          weights_t.data() + first * rows,
                                          decoded_t.data() + first * rows, team));
  }
  return absl::OkStatus();
}

}  // namespace quantloom
