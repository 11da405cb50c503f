#include "core/transform/incoherence.h"

#include <algorithm>
#include <cassert>

namespace quantloom {
namespace {

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
uint64_t SplitMix64(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Copies the upper triangle of h [n, n] over the lower one.
void MirrorUpperTriangle(double* h, size_t n, ThreadTeam& team) {
  constexpr size_t kTile = 32;  // a tile's rows and columns both stay in the cache
  team.ParallelFor((n + kTile - 1) / kTile, 1, [&](size_t begin, size_t end, int) {
    for (size_t i = begin * kTile; i < std::min(end * kTile, n); i += kTile) {
      for (size_t j = 0; j <= i; j += kTile) {
        for (size_t r = i; r < std::min(i + kTile, n); ++r) {
          for (size_t c = j; c < std::min(j + kTile, r); ++c) h[r * n + c] = h[c * n + r];
        }
      }
    }
  });
}

}  // namespace

std::vector<float> RandomSigns(uint64_t seed, size_t count) {
  std::vector<float> signs(count);
  uint64_t bits = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i % 64 == 0) bits = SplitMix64(seed);
    signs[i] = (bits >> (i % 64) & 1) != 0 ? -1.0f : 1.0f;
  }
  return signs;
}

Incoherence::Incoherence(size_t rows, size_t cols, const IncoherenceOptions& options)
    : rows_(rows), cols_(cols), options_(options) {
  if (options.kind == IncoherenceKind::kNone) return;
  input_.emplace(cols, options.blocks, RandomSigns(options.input_seed, cols));
  if (options.kind == IncoherenceKind::kInput) return;
  output_.emplace(rows, options.blocks, RandomSigns(options.output_seed, rows));
}

void Incoherence::TransformWeights(absl::Span<float> w, ThreadTeam& team) const {
  assert(w.size() == rows_ * cols_);
  if (input_) input_->ApplyToRows(Direction::kForward, w, team);
  if (output_) output_->ApplyToColumns(Direction::kForward, w, team);
}

void Incoherence::RestoreWeights(absl::Span<float> w, ThreadTeam& team) const {
  assert(w.size() == rows_ * cols_);
  if (output_) output_->ApplyToColumns(Direction::kTransposed, w, team);
  if (input_) input_->ApplyToRows(Direction::kTransposed, w, team);
}

void Incoherence::TransformHessian(absl::Span<double> h, ThreadTeam& team) const {
  assert(h.size() == cols_ * cols_);
  if (!input_) return;
  input_->ApplyToRows(Direction::kForward, h, team);
  input_->ApplyToColumns(Direction::kForward, h, team);
  MirrorUpperTriangle(h.data(), cols_, team);  // the halves differ by rounding
}

void Incoherence::TransformInputs(absl::Span<float> x, ThreadTeam& team) const {
  assert(x.size() % cols_ == 0);
  if (input_) input_->ApplyToRows(Direction::kForward, x, team);
}

void Incoherence::RestoreOutputs(absl::Span<float> y, ThreadTeam& team) const {
  assert(y.size() % rows_ == 0);
  if (output_) output_->ApplyToRows(Direction::kTransposed, y, team);
}

}  // namespace quantloom
