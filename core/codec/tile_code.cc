#include "core/codec/tile_code.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/encode_input.h"
#include "core/codec/plane_set.h"
#include "core/rounding/hessian_factors.h"
#include "core/rounding/ldlq.h"
#include "core/rounding/proxy_loss.h"

namespace quantloom {
namespace {

// The scale is searched on this many rows, which under LDLQ are independent of the others, between
// these multiples of the one that gives input_rms(): Gaussian weights have their optimum at 1.
constexpr uint64_t kScaleRows = 16;
constexpr double kScaleFrom = 0.85;
constexpr double kScaleTo = 1.25;
constexpr int kScaleSteps = 5;

uint64_t TilesOf(uint64_t size, uint64_t tile) { return (size + tile - 1) / tile; }

// Where a matrix's tiles are.
struct TileGrid {
  TileGrid(const TileCode& code, uint64_t rows, uint64_t cols)
      : row_tiles(TilesOf(rows, code.tile_rows())),
        col_tiles(TilesOf(cols, code.tile_cols())),
        tile_bytes(code.tile_bytes()) {}

  uint64_t offset(uint64_t row_tile, uint64_t col_tile) const {
    return (row_tile * col_tiles + col_tile) * tile_bytes;
  }
  uint64_t bytes() const { return row_tiles * col_tiles * tile_bytes; }

  uint64_t row_tiles, col_tiles, tile_bytes;
};

// Codes a matrix's columns of tiles as LDLQ asks for them.
class TileColumns final : public ColumnQuantizer {
 public:
  TileColumns(const TileCode& code, float scale, uint64_t rows, uint64_t cols)
      : code_(code),
        scale_(scale),
        rows_(rows),
        grid_(code, rows, cols),
        codes_(grid_.bytes()),
        normalized_(code.tile_cols() * rows) {}

  uint64_t width() const override { return code_.tile_cols(); }

  void Quantize(uint64_t first_column, uint64_t columns, const float* targets, float* decoded,
                ThreadTeam& team) override {
    // A zero scale codes zeros: what it decodes to is zero whatever the codes.
    for (uint64_t i = 0; i < columns * rows_; ++i) {
      normalized_[i] = scale_ == 0 ? 0 : targets[i] / scale_;
    }
    code_.Encode(normalized_.data(), columns, rows_,
                 codes_.data() + grid_.offset(0, first_column / code_.tile_cols()),
                 grid_.col_tiles * grid_.tile_bytes, decoded, team);
    for (uint64_t i = 0; i < columns * rows_; ++i) decoded[i] *= scale_;
  }

  std::vector<uint8_t> TakeCodes() { return std::move(codes_); }

 private:
  const TileCode& code_;
  float scale_;
  uint64_t rows_;
  TileGrid grid_;
  std::vector<uint8_t> codes_;
  std::vector<float> normalized_;  // [width, rows]
};

// sqrt(mean square) in a fixed order.
double RootMeanSquare(absl::Span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

// Encodes W~, given as W~^T [cols, rows].
class Encoding {
 public:
  Encoding(const TileCode& code, const FactoredHessian* hessian, uint64_t rows, uint64_t cols,
           ThreadTeam& team)
      : code_(code), hessian_(hessian), rows_(rows), cols_(cols), team_(team) {}

  struct Result {
    float scale = 0;
    double loss = 0;  // proxy loss, or without a Hessian the relative error
    std::vector<uint8_t> codes;
  };

  Result Run(absl::Span<const float> weights_t) {
    const double unit = RootMeanSquare(weights_t) /
                        static_cast<double>(code_.input_rms(/*feedback=*/hessian_ != nullptr));
    Result result;
    result.scale = static_cast<float>(unit);
    if (unit > 0) result.scale = static_cast<float>(unit * ScaleFactor(weights_t, unit));
    Round(weights_t, rows_, result);
    return result;
  }

 private:
  void Round(absl::Span<const float> weights_t, uint64_t rows, Result& result) {
    TileColumns columns(code_, result.scale, rows, cols_);
    std::vector<float> decoded_t(weights_t.size());
    if (hessian_ == nullptr) {
      RoundToNearest(weights_t, rows, columns, absl::MakeSpan(decoded_t), team_);
      result.loss = RelativeError(weights_t, decoded_t, rows, {});
    } else {
      Ldlq(hessian_->ldl, weights_t, rows, columns, absl::MakeSpan(decoded_t), team_);
      result.loss = ProxyLoss(hessian_->hessian, weights_t, decoded_t, rows, team_);
    }
    result.codes = columns.TakeCodes();
  }

  // The multiple of `unit` that loses least on a sample of rows, by golden-section search.
  double ScaleFactor(absl::Span<const float> weights_t, double unit) {
    const uint64_t count = std::min(kScaleRows, rows_);
    std::vector<float> sample(count * cols_);
    for (uint64_t c = 0; c < cols_; ++c) {
      for (uint64_t i = 0; i < count; ++i) {
        sample[c * count + i] = weights_t[c * rows_ + i * rows_ / count];
      }
    }
    const auto loss = [&](double factor) {
      Result result;
      result.scale = static_cast<float>(unit * factor);
      Round(sample, count, result);
      return result.loss;
    };
    constexpr double kGolden = 0.6180339887498949;
    double from = kScaleFrom, to = kScaleTo;
    double low = to - kGolden * (to - from), high = from + kGolden * (to - from);
    double low_loss = loss(low), high_loss = loss(high);
    for (int step = 2; step < kScaleSteps; ++step) {
      if (low_loss <= high_loss) {
        to = high;
        high = low;
        high_loss = low_loss;
        low = to - kGolden * (to - from);
        low_loss = loss(low);
      } else {
        from = low;
        low = high;
        low_loss = high_loss;
        high = from + kGolden * (to - from);
        high_loss = loss(high);
      }
    }
    return low_loss <= high_loss ? low : high;
  }

  const TileCode& code_;
  const FactoredHessian* hessian_;
  uint64_t rows_, cols_;
  ThreadTeam& team_;
};

class TileMatrix final : public PackedMatrix {
 public:
  TileMatrix(std::unique_ptr<const TileCode> code, const TileOptions& options, std::string recipe,
             uint64_t rows, uint64_t cols)
      : PackedMatrix(std::move(recipe), rows, cols),
        code_(std::move(code)),
        grid_(*code_, rows, cols),
        incoherence_(rows, cols, options.incoherence) {}

  absl::Status SetPlanes(absl::Span<const PlaneView> planes) {
    PlaneSet set(planes);
    QL_ASSIGN_OR_RETURN(codes_, set.Take("codes", DType::kU8, grid_.bytes()));
    QL_ASSIGN_OR_RETURN(const uint8_t* scale, set.Take("scale", DType::kF32, sizeof(float)));
    QL_RETURN_IF_ERROR(set.CheckAllTaken());
    std::memcpy(&scale_, scale, sizeof(float));
    if (!(std::isfinite(scale_) && scale_ >= 0)) {
      return CorruptPlane("scale", absl::StrCat("has ", scale_, ", which is no scale"));
    }
    const double weights = static_cast<double>(rows()) * static_cast<double>(cols());
    bits_.codes = 8.0 * static_cast<double>(grid_.bytes()) / weights;
    bits_.codebooks = 8.0 * sizeof(float) / weights;
    bits_.padding = 8.0 * static_cast<double>(set.stored_bytes() - set.content_bytes()) / weights;
    return absl::OkStatus();
  }

  const Incoherence* incoherence() const override {
    return incoherence_.options().kind == IncoherenceKind::kNone ? nullptr : &incoherence_;
  }

  void DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                  uint64_t stride) const override {
    const uint64_t height = code_->tile_rows(), width = code_->tile_cols();
    std::vector<float> values(height * width);
    for (uint64_t r = row / height; r * height < row + rows; ++r) {
      for (uint64_t c = col / width; c * width < col + cols; ++c) {
        code_->Decode(codes_ + grid_.offset(r, c), values.data());
        const uint64_t row_end = std::min((r + 1) * height, row + rows);
        const uint64_t col_end = std::min((c + 1) * width, col + cols);
        for (uint64_t i = std::max(r * height, row); i < row_end; ++i) {
          for (uint64_t j = std::max(c * width, col); j < col_end; ++j) {
            out[(i - row) * stride + (j - col)] =
                scale_ * values[(i - r * height) * width + (j - c * width)];
          }
        }
      }
    }
  }

  BitBreakdown bits() const override { return bits_; }

 private:
  std::unique_ptr<const TileCode> code_;
  TileGrid grid_;
  Incoherence incoherence_;
  float scale_ = 0;
  const uint8_t* codes_ = nullptr;
  BitBreakdown bits_;
};

absl::StatusOr<EncodedMatrix> EncodeTiles(const TileCode& code, const TileOptions& options,
                                          Recipe recipe, const EncodeInput& input,
                                          ThreadTeam& team) {
  QL_RETURN_IF_ERROR(CheckEncodeInput(recipe.codec, input, team).status());
  TileOptions resolved = options;
  resolved.incoherence.input_seed = input.input_seed;
  resolved.incoherence.output_seed = input.output_seed;
  resolved.ldlq = options.ldlq && input.hessian != nullptr;
  const Incoherence incoherence(input.rows, input.cols, resolved.incoherence);

  std::vector<float> weights(input.weights.begin(), input.weights.end());
  incoherence.TransformWeights(absl::MakeSpan(weights), team);
  const std::vector<float> weights_t = Transposed(weights, input.rows, input.cols, team);
  std::shared_ptr<const FactoredHessian> hessian;
  if (resolved.ldlq) {
    QL_ASSIGN_OR_RETURN(
        hessian, input.hessian->Factor(incoherence, code.tile_cols(), ColumnOrder::kStored, team));
  }
  Encoding::Result result =
      Encoding(code, hessian.get(), input.rows, input.cols, team).Run(weights_t);

  EncodedMatrix encoded;
  resolved.AddTo(recipe, /*resolved=*/true);
  encoded.recipe = recipe.ToString();
  encoded.relative_error = result.loss;
  Plane codes = NewPlane("codes", DType::kU8, result.codes.size());
  std::copy(result.codes.begin(), result.codes.end(), codes.bytes.begin());
  Plane scale = NewPlane("scale", DType::kF32, sizeof(float));
  std::memcpy(scale.bytes.data(), &result.scale, sizeof(float));
  encoded.planes.push_back(std::move(codes));
  encoded.planes.push_back(std::move(scale));
  return encoded;
}

class TileCodec final : public Codec {
 public:
  TileCodec(std::unique_ptr<const TileCode> code, const TileOptions& options, Recipe own)
      : code_(std::move(code)), options_(options), own_(std::move(own)) {}

  std::string recipe() const override {
    Recipe recipe = own_;
    options_.AddTo(recipe, /*resolved=*/false);
    return recipe.ToString();
  }

  bool transforms_outputs() const override {
    return options_.incoherence.kind == IncoherenceKind::kTwoSided;
  }

  absl::StatusOr<EncodedMatrix> Encode(const EncodeInput& input, ThreadTeam& team) const override {
    return EncodeTiles(*code_, options_, own_, input, team);
  }

 private:
  std::unique_ptr<const TileCode> code_;
  TileOptions options_;
  Recipe own_;
};

}  // namespace

std::unique_ptr<Codec> MakeTileCodec(std::unique_ptr<const TileCode> code,
                                     const TileOptions& options, Recipe own) {
  return std::make_unique<TileCodec>(std::move(code), options, std::move(own));
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenTiles(std::unique_ptr<const TileCode> code,
                                                        const TileOptions& options,
                                                        const Recipe& recipe, uint64_t rows,
                                                        uint64_t cols,
                                                        absl::Span<const PlaneView> planes) {
  QL_RETURN_IF_ERROR(CheckShape(recipe.codec, rows, cols));
  // Before anything is allocated for a shape that a file claims.
  uint64_t stored = 0;
  for (const PlaneView& plane : planes) stored += plane.bytes.size();
  const TileGrid grid(*code, rows, cols);
  if (stored / grid.tile_bytes / grid.col_tiles < grid.row_tiles) {
    return absl::DataLossError(
        absl::StrCat("planes hold ", stored, " bytes, too few for shape [", rows, ", ", cols, "]"));
  }
  auto matrix =
      std::make_unique<TileMatrix>(std::move(code), options, recipe.ToString(), rows, cols);
  QL_RETURN_IF_ERROR(matrix->SetPlanes(planes));
  return matrix;
}

}  // namespace quantloom
