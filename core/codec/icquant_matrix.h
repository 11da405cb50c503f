// A stored ICQuant matrix (arXiv 2505.00850): its planes, and a validated view of them that kernels
// build on. docs/icquant.md describes the bytes; core/codec/icquant.cc encodes.
//
// Every weight has an n-bit code. Per row, a few columns are outliers; outliers and inliers are
// decoded by two tables ("parts") of 2^n levels each: level index = part << n | code, part 1 for
// outliers. Planes (all one-dimensional, zero-padded to a multiple of 64 bytes, so that each starts
// at one when they are stored one after the other):
//
//   codes         U8    rows x CodeRowBytes(n, cols), see code_packing.h
//   index, index_counts, index_base    outlier positions, see outlier_index.h
//   and, by codebook form, with parts = 2, or 1 when there are no outliers:
//   fp16          codebook F16 [rows, parts, 2^n]
//   int8          codebook I8  [rows, parts, 2^n] (n = 8: absent, the code is the centroid),
//                 scale BF16 [rows], offset BF16 [rows] (optional)
//   tensor        codebook I8  [parts, 2^n], scale BF16 [rows]
//   range         range F16 [rows, parts == 2 ? 3 : 1, 2]: (lowest level, step) of the inliers, of
//                 the outliers' negative tail (codes below 2^(n-1)) and of their positive tail
//
// In the integer forms (int8, tensor) a value is scale[row] * q + offset[row] with q in -127..127
// and scale[row] >= 0.
// Scales and offsets are BF16, not F16: a scale needs range (rows of 1e-7 or 1e5 occur), and
// centroids are fitted after it is rounded, so its 8-bit mantissa costs nothing. Products
// scale * q and step * code are exact in float, so a value has one rounding at most and is the same
// with and without FMA.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/codec/code_packing.h"
#include "core/codec/codec.h"
#include "core/codec/outlier_index.h"
#include "core/transform/incoherence.h"

namespace quantloom {

enum class IcquantInner : uint8_t { kRtn, kKmeans };
enum class IcquantCodebook : uint8_t { kAuto, kFp16, kInt8, kTensor, kRange };
enum class IcquantOffset : uint8_t { kAuto, kNone, kRow };

// The options of an `icquant:` recipe.
struct IcquantOptions {
  int bits = 4;            // 1, 2, 3, 4 or 8
  double outliers = 0.05;  // gamma, 0..0.25
  IcquantInner inner = IcquantInner::kKmeans;
  IcquantCodebook codebook = IcquantCodebook::kAuto;
  IcquantOffset offset = IcquantOffset::kAuto;  // form int8 only
  int index_bits = 0;                           // B, 2..8; 0: auto, or no outliers
  // How codes are chosen: each weight's nearest level, or with feedback of the errors of the
  // columns already rounded (core/rounding/ldlq.h), which needs the layer's Hessian. Decoding is
  // the same.
  bool ldlq = true;
  IncoherenceOptions incoherence = {.kind = IncoherenceKind::kNone};  // seeds: resolved only

  // INVALID_ARGUMENT naming the key and its allowed values.
  static absl::StatusOr<IcquantOptions> FromRecipe(Recipe recipe);
  // Canonical: keys in alphabetical order, those without a meaning left out. `stored`: of a stored
  // matrix, with the seeds that decoding needs.
  std::string ToRecipe(bool stored) const;
  // Whether nothing is left to the encoder.
  bool resolved() const;
};

class IcquantMatrix final : public PackedMatrix {
 public:
  // `options` must be resolved. INVALID_ARGUMENT for options or a shape that are wrong; DATA_LOSS
  // for planes that contradict them.
  static absl::StatusOr<std::unique_ptr<IcquantMatrix>> Open(const IcquantOptions& options,
                                                             uint64_t rows, uint64_t cols,
                                                             absl::Span<const PlaneView> planes);

  const IcquantOptions& options() const { return options_; }
  const Incoherence* incoherence() const override {
    return incoherence_ ? &*incoherence_ : nullptr;
  }
  int code_bits() const { return options_.bits; }
  bool has_outliers() const { return index_.has_value(); }
  // Levels of a row: 2^n, or 2^(n+1) with outliers.
  uint32_t levels() const { return (has_outliers() ? 2u : 1u) << options_.bits; }

  // --- Codes.
  uint64_t code_row_bytes() const { return code_row_bytes_; }
  const uint8_t* row_codes(uint64_t row) const { return codes_ + row * code_row_bytes_; }

  // --- Outliers.
  // Sets words[b] to the outliers of the row's columns 64 (first_block + b) .. + 63, lowest bit
  // first, for b < blocks. Cost: O(columns + segments * 64) for any range.
  void OutlierBitmap(uint64_t row, uint64_t first_block, uint64_t blocks, uint64_t* words) const;

  // --- Levels.
  // Whether a value is scale * q + offset (forms int8 and tensor, n = 8 included).
  bool integer_form() const { return scale_ != nullptr; }
  // Integer forms with n <= 4: the row's levels() centroids q in -127..127, index part << n | code.
  // The tensor form has the same pointer for every row. With n = 8 there are none: the code's byte,
  // as int8_t, is q.
  const int8_t* centroids(uint64_t row) const { return centroids_ + row * centroid_stride_; }
  float scale(uint64_t row) const;
  bool has_offset() const { return offset_ != nullptr; }
  float offset(uint64_t row) const;  // 0 without offsets
  // Any form: the values of the row's levels() levels, table[part << n | code]; for n = 8 in the
  // integer form too.
  void RowLevels(uint64_t row, float* table) const;

  // Bytes of all planes, padding included.
  uint64_t stored_bytes() const { return stored_bytes_; }

  void DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                  uint64_t stride) const override;
  BitBreakdown bits() const override { return bits_; }

 private:
  IcquantMatrix(const IcquantOptions& options, uint64_t rows, uint64_t cols);
  absl::Status SetPlanes(absl::Span<const PlaneView> planes);
  absl::Status CheckLevels() const;

  IcquantOptions options_;
  uint64_t code_row_bytes_;
  uint64_t centroid_stride_ = 0;  // 0: one codebook for all rows
  uint64_t stored_bytes_ = 0;
  BitBreakdown bits_;
  const uint8_t* codes_ = nullptr;
  std::optional<Incoherence> incoherence_;
  std::optional<OutlierIndex> index_;
  const int8_t* centroids_ = nullptr;     // integer forms, n <= 4
  const uint8_t* half_levels_ = nullptr;  // F16: form fp16
  const uint8_t* ranges_ = nullptr;       // F16: form range
  const uint8_t* scale_ = nullptr;        // BF16
  const uint8_t* offset_ = nullptr;       // BF16
};

}  // namespace quantloom
