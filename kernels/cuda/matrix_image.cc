#include "kernels/cuda/matrix_image.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/e8p_tiles.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis_tiles.h"
#include "kernels/cuda/dense_image.h"
#include "kernels/cuda/e8p_image.h"
#include "kernels/cuda/icquant_image.h"
#include "kernels/cuda/trellis_image.h"

namespace quantloom::cuda {
namespace {

absl::Status CheckDimensions(uint64_t rows, uint64_t cols) {
  if (rows >= 1 && cols >= 1 && rows <= kMaxMatrixDimension && cols <= kMaxMatrixDimension) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("[", rows, ", ", cols, "]: allowed are 1 to ", kMaxMatrixDimension));
}

float DenseValue(DType dtype, const uint8_t* bytes, uint64_t i) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, bytes + 4 * i, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes + 2 * i, sizeof(bits));
  return dtype == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
}

// Of the tile codes that have a kernel; null for others.
std::optional<MatrixImage> TileImage(const TileMatrix& matrix, ThreadTeam& team) {
  const TrellisFormat* const trellis = TrellisFormatOf(matrix.code());
  if (trellis != nullptr && HasTrellisImage(*trellis)) return TrellisImage(matrix, *trellis, team);
  const E8pRate* const e8p = E8pRateOf(matrix.code());
  if (e8p != nullptr) return E8pImage(matrix, *e8p, team);
  return std::nullopt;
}

}  // namespace

MatrixView MatrixImage::ViewAt(const void* memory) const {
  MatrixView moved = view;
  const uint8_t* const to = static_cast<const uint8_t*>(memory);
  std::visit(
      [&](auto& form) {
        form.ForEachArray([&]<typename T>(const T*& array) {
          if (array == nullptr) return;
          const auto offset = reinterpret_cast<const uint8_t*>(array) - bytes.data();
          array = reinterpret_cast<const T*>(to + offset);
        });
      },
      moved);
  return moved;
}

absl::StatusOr<MatrixImage> PackedMatrixImage(const PackedMatrix& matrix, MatrixUse use,
                                              ThreadTeam& team) {
  QL_RETURN_IF_ERROR(CheckDimensions(matrix.rows(), matrix.cols()));
  if (const auto* icquant = dynamic_cast<const IcquantMatrix*>(&matrix)) {
    if (icquant->integer_form() && icquant->code_bits() == 8 && !icquant->has_outliers()) {
      return ByteImage(*icquant, team);
    }
    if (use == MatrixUse::kProduct && HasIcquantImage(*icquant)) {
      return IcquantImage(*icquant, team);
    }
  }
  const auto* tiles = dynamic_cast<const TileMatrix*>(&matrix);
  if (use == MatrixUse::kProduct && tiles != nullptr && !tiles->has_outliers()) {
    if (std::optional<MatrixImage> image = TileImage(*tiles, team)) return *std::move(image);
  }
  return HalfImage(
      static_cast<uint32_t>(matrix.rows()), static_cast<uint32_t>(matrix.cols()),
      [&](uint64_t first, uint64_t count, float* out) {
        matrix.DecodeTile(first, count, 0, matrix.cols(), out, matrix.cols());
      },
      team);
}

absl::StatusOr<MatrixImage> DenseMatrixImage(uint64_t rows, uint64_t cols, DType dtype,
                                             absl::Span<const uint8_t> values, ThreadTeam& team) {
  QL_RETURN_IF_ERROR(CheckDimensions(rows, cols));
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return absl::InvalidArgumentError("dense values must be F32, F16 or BF16");
  }
  if (values.size() / DTypeSize(dtype) / rows != cols ||
      values.size() != rows * cols * DTypeSize(dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat(values.size(), " bytes are not [", rows, ", ", cols, "]"));
  }
  return HalfImage(
      static_cast<uint32_t>(rows), static_cast<uint32_t>(cols),
      [&](uint64_t first, uint64_t count, float* out) {
        for (uint64_t i = 0; i < count * cols; ++i) {
          out[i] = DenseValue(dtype, values.data(), first * cols + i);
        }
      },
      team);
}

}  // namespace quantloom::cuda
