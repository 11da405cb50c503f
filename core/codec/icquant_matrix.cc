#include "core/codec/icquant_matrix.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/plane_set.h"

namespace quantloom {
IcquantMatrix::IcquantMatrix(const IcquantOptions& options, uint64_t rows, uint64_t cols)
    : PackedMatrix(options.ToRecipe(/*stored=*/true), rows, cols),
      options_(options),
      code_row_bytes_(CodeRowBytes(options.bits, cols)) {
  if (options.incoherence.kind != IncoherenceKind::kNone) {
    incoherence_.emplace(rows, cols, options.incoherence);
  }
}

absl::StatusOr<std::unique_ptr<IcquantMatrix>> IcquantMatrix::Open(
    const IcquantOptions& options, uint64_t rows, uint64_t cols,
    absl::Span<const PlaneView> planes) {
  if (!options.resolved()) {
    return absl::InvalidArgumentError(absl::StrCat("icquant: '", options.ToRecipe(/*stored=*/false),
                                                   "' leaves choices to the encoder"));
  }
  QL_RETURN_IF_ERROR(CheckShape("icquant", rows, cols));
  if (options.outliers > 0 && RowOutliers(options.outliers, cols) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("icquant: outliers=", options.outliers, " is none of ", cols, " columns"));
  }
  std::unique_ptr<IcquantMatrix> matrix(new IcquantMatrix(options, rows, cols));
  QL_RETURN_IF_ERROR(matrix->SetPlanes(planes));
  QL_RETURN_IF_ERROR(matrix->CheckLevels());
  return matrix;
}

absl::Status IcquantMatrix::SetPlanes(absl::Span<const PlaneView> planes) {
  PlaneSet set(planes);
  const uint64_t code_bytes = rows() * code_row_bytes_;
  QL_ASSIGN_OR_RETURN(codes_, set.Take("codes", DType::kU8, code_bytes));

  if (options_.outliers > 0) {
    QL_ASSIGN_OR_RETURN(index_, OutlierIndex::Take(set, rows(), cols(), options_.index_bits,
                                                   RowOutliers(options_.outliers, cols())));
  }
  const uint64_t checkpoint_bytes = index_ ? index_->checkpoint_bytes() : 0;

  const uint64_t level_count = levels();
  switch (options_.codebook) {
    case IcquantCodebook::kFp16: {
      QL_ASSIGN_OR_RETURN(half_levels_,
                          set.Take("codebook", DType::kF16, rows() * level_count * 2));
      break;
    }
    case IcquantCodebook::kInt8:
    case IcquantCodebook::kTensor: {
      const bool shared = options_.codebook == IcquantCodebook::kTensor;
      if (options_.bits != 8) {
        centroid_stride_ = shared ? 0 : level_count;
        QL_ASSIGN_OR_RETURN(
            const uint8_t* bytes,
            set.Take("codebook", DType::kI8, shared ? level_count : rows() * level_count));
        centroids_ = reinterpret_cast<const int8_t*>(bytes);
      }
      QL_ASSIGN_OR_RETURN(scale_, set.Take("scale", DType::kBF16, rows() * 2));
      if (!shared && options_.offset == IcquantOffset::kRow) {
        QL_ASSIGN_OR_RETURN(offset_, set.Take("offset", DType::kBF16, rows() * 2));
      }
      break;
    }
    case IcquantCodebook::kRange: {
      const uint64_t ranges = has_outliers() ? 3 : 1;
      QL_ASSIGN_OR_RETURN(ranges_, set.Take("range", DType::kF16, rows() * ranges * 4));
      break;
    }
    case IcquantCodebook::kAuto:
      return absl::InternalError("icquant: unresolved codebook");
  }
  QL_RETURN_IF_ERROR(set.CheckAllTaken());

  stored_bytes_ = set.stored_bytes();
  const double weights = static_cast<double>(rows()) * static_cast<double>(cols());
  const uint64_t index_bits = index_ ? index_->index_bits() : 0;
  const uint64_t codebook_bytes =
      set.content_bytes() - code_bytes - checkpoint_bytes - (index_bits + 7) / 8;
  bits_.codes = static_cast<double>(code_bytes * 8) / weights;
  bits_.index = static_cast<double>(index_bits) / weights;
  bits_.checkpoints = static_cast<double>(checkpoint_bytes * 8) / weights;
  bits_.codebooks = static_cast<double>(codebook_bytes * 8) / weights;
  bits_.padding =
      static_cast<double>((stored_bytes_ - code_bytes - checkpoint_bytes - codebook_bytes) * 8 -
                          index_bits) /
      weights;
  return absl::OkStatus();
}

absl::Status IcquantMatrix::CheckLevels() const {
  if (half_levels_ != nullptr || ranges_ != nullptr) {
    const bool range = ranges_ != nullptr;
    const uint8_t* plane = range ? ranges_ : half_levels_;
    const uint64_t count = rows() * (range ? (has_outliers() ? 6 : 2) : levels());
    for (uint64_t i = 0; i < count; ++i) {
      if (!std::isfinite(HalfToFloat(LoadU16(plane, i)))) {
        return CorruptPlane(range ? "range" : "codebook",
                            absl::StrCat("has a value that is not finite at ", i));
      }
    }
    return absl::OkStatus();
  }
  // -128 is not used: kernels may negate.
  const int8_t* q = centroids_;
  uint64_t q_count = centroid_stride_ == 0 ? levels() : rows() * centroid_stride_;
  if (options_.bits == 8) {
    q = reinterpret_cast<const int8_t*>(codes_);
    q_count = rows() * cols();
  }
  const int8_t* lowest = std::min_element(q, q + q_count);
  if (*lowest < -127) {
    return CorruptPlane(options_.bits == 8 ? "codes" : "codebook",
                        absl::StrCat("has the value -128 at ", lowest - q));
  }
  for (uint64_t row = 0; row < rows(); ++row) {
    const float s = scale(row);
    if (!(s >= 0) || !std::isfinite(s * 127 + std::fabs(offset(row)))) {
      return CorruptPlane("scale",
                          absl::StrCat("is negative, or a level is not finite, in row ", row));
    }
  }
  return absl::OkStatus();
}

void IcquantMatrix::OutlierBitmap(uint64_t row, uint64_t first_block, uint64_t blocks,
                                  uint64_t* words) const {
  std::fill(words, words + blocks, 0);
  if (!has_outliers()) return;
  const uint64_t begin = first_block * kCodeBlockColumns;
  const uint64_t end = std::min(begin + blocks * kCodeBlockColumns, cols());
  index_->ForEachOutlier(row, begin, end, [&](uint64_t column, uint64_t) {
    words[column / kCodeBlockColumns - first_block] |= uint64_t{1} << (column % kCodeBlockColumns);
  });
}

float IcquantMatrix::scale(uint64_t row) const { return BFloat16ToFloat(LoadU16(scale_, row)); }

float IcquantMatrix::offset(uint64_t row) const {
  return offset_ == nullptr ? 0.0f : BFloat16ToFloat(LoadU16(offset_, row));
}

void IcquantMatrix::RowLevels(uint64_t row, float* table) const {
  const uint32_t count = levels();
  if (half_levels_ != nullptr) {
    for (uint32_t i = 0; i < count; ++i) {
      table[i] = HalfToFloat(LoadU16(half_levels_, row * count + i));
    }
  } else if (ranges_ != nullptr) {
    const uint32_t half = 1u << (options_.bits - 1);
    const uint32_t ranges = has_outliers() ? 3 : 1;
    const uint64_t first = row * ranges * 2;
    uint32_t level = 0;
    for (uint32_t range = 0; range < ranges; ++range) {
      const float lowest = HalfToFloat(LoadU16(ranges_, first + range * 2));
      const float step = HalfToFloat(LoadU16(ranges_, first + range * 2 + 1));
      const uint32_t range_levels = range == 0 ? 2 * half : half;
      for (uint32_t i = 0; i < range_levels; ++i) {
        table[level++] = lowest + step * static_cast<float>(i);
      }
    }
  } else {
    const float s = scale(row);
    const float o = offset(row);
    for (uint32_t i = 0; i < count; ++i) {
      const int8_t q = options_.bits == 8 ? static_cast<int8_t>(i) : centroids(row)[i];
      table[i] = s * static_cast<float>(q) + o;
    }
  }
}

void IcquantMatrix::DecodeTile(uint64_t row, uint64_t tile_rows, uint64_t col, uint64_t tile_cols,
                               float* out, uint64_t stride) const {
  if (tile_cols == 0) return;
  const uint64_t first_block = col / kCodeBlockColumns;
  const uint64_t end_block = (col + tile_cols + kCodeBlockColumns - 1) / kCodeBlockColumns;
  std::vector<uint64_t> outliers(end_block - first_block);
  std::vector<float> table(levels());
  for (uint64_t r = 0; r < tile_rows; ++r) {
    OutlierBitmap(row + r, first_block, outliers.size(), outliers.data());
    RowLevels(row + r, table.data());
    const uint8_t* codes = row_codes(row + r);
    float* out_row = out + r * stride;
    for (uint64_t c = col; c < col + tile_cols; ++c) {
      const uint64_t word = outliers[c / kCodeBlockColumns - first_block];
      const uint32_t part = static_cast<uint32_t>(word >> (c % kCodeBlockColumns)) & 1u;
      out_row[c - col] = table[part << options_.bits | RowCode(codes, options_.bits, cols(), c)];
    }
  }
}

}  // namespace quantloom
