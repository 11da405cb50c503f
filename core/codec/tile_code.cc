#include "core/codec/tile_code.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/encode_input.h"
#include "core/codec/plane_set.h"
#include "core/codec/tile_matrix.h"
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

// Codes a matrix's columns of tiles as LDLQ asks for them.
class TileColumns final : public ColumnQuantizer {
 public:
  // `scales`: [rows]. `search` and `outliers` may be null.
  TileColumns(const TileCode& code, TrellisSearch* search, absl::Span<const float> scales,
              uint64_t cols, TileOutliers* outliers)
      : code_(code),
        search_(search),
        scales_(scales),
        rows_(scales.size()),
        outliers_(outliers),
        grid_(code, rows_, cols),
        codes_(grid_.bytes()),
        normalized_(code.tile_cols() * rows_) {}

  uint64_t width() const override { return code_.tile_cols(); }

  absl::Status Quantize(uint64_t first_column, uint64_t columns, const float* targets,
                        float* decoded, ThreadTeam& team) override {
    const uint8_t* ignored = outliers_ == nullptr ? nullptr : outliers_->mask(first_column);
    for (uint64_t i = 0; i < columns * rows_; i += rows_) {
      for (uint64_t r = 0; r < rows_; ++r) {
        // A zero scale codes zeros: what it decodes to is zero whatever the codes.
        const bool counts = scales_[r] != 0 && (ignored == nullptr || ignored[i + r] == 0);
        normalized_[i + r] = counts ? targets[i + r] / scales_[r] : 0;
      }
    }
    QL_RETURN_IF_ERROR(
        code_.Encode({.targets = normalized_.data(),
                      .ignored = ignored,
                      .columns = columns,
                      .rows = rows_,
                      .codes = codes_.data() + grid_.offset(0, first_column / code_.tile_cols()),
                      .stride = grid_.col_tiles * grid_.tile_bytes,
                      .decoded = decoded},
                     search_, team));
    for (uint64_t i = 0; i < columns * rows_; i += rows_) {
      for (uint64_t r = 0; r < rows_; ++r) decoded[i + r] *= scales_[r];
    }
    if (outliers_ != nullptr) outliers_->Round(first_column, columns, targets, decoded);
    return absl::OkStatus();
  }

  std::vector<uint8_t> TakeCodes() { return std::move(codes_); }

 private:
  const TileCode& code_;
  TrellisSearch* search_;
  absl::Span<const float> scales_;
  uint64_t rows_;
  TileOutliers* outliers_;
  TileGrid grid_;
  std::vector<uint8_t> codes_;
  std::vector<float> normalized_;  // [width, rows]
};

// What W~ [rows, cols], given as W~^T, becomes.
struct TileEncoding {
  std::vector<float> scales;  // [rows], as they are stored
  std::optional<TileOutliers> outliers;
  std::vector<uint8_t> codes;
  double loss = 0;  // proxy loss, or without a Hessian the relative error
};

// Encodes W~.
class MatrixEncoder {
 public:
  // `importance`: [cols], of the inputs as W~ takes them; empty: all alike. `search` may be null.
  MatrixEncoder(const TileCode& code, const TileOptions& options, TrellisSearch* search,
                const FactoredHessian* hessian, absl::Span<const float> importance, uint64_t cols,
                ThreadTeam& team)
      : code_(code),
        options_(options),
        search_(search),
        hessian_(hessian),
        importance_(importance),
        cols_(cols),
        team_(team) {
    outlier_importance_.assign(cols, 1.0);
    for (uint64_t c = 0; c < importance.size(); ++c) {
      outlier_importance_[c] = static_cast<double>(importance[c]) + kLeastImportance;
    }
  }

  absl::StatusOr<TileEncoding> Run(absl::Span<const float> weights_t) {
    TileEncoding encoding;
    FindOutliers(weights_t, encoding);
    const std::vector<double> units = Units(weights_t, encoding);
    double factor = 1;
    if (!std::all_of(units.begin(), units.end(), [](double u) { return u == 0; })) {
      QL_ASSIGN_OR_RETURN(factor, ScaleFactor(weights_t, units));
    }
    QL_RETURN_IF_ERROR(Round(weights_t, units, factor, encoding));
    return encoding;
  }

 private:
  // A column that calibration never saw still has an optimum.
  static constexpr double kLeastImportance = 1e-30;

  void FindOutliers(absl::Span<const float> weights_t, TileEncoding& encoding) {
    if (options_.outliers.share == 0) return;
    encoding.outliers.emplace(options_.outliers, weights_t, weights_t.size() / cols_, cols_,
                              outlier_importance_, team_);
  }

  // The scale of each row that brings its weights, outliers left out, to the code's input_rms().
  std::vector<double> Units(absl::Span<const float> weights_t, const TileEncoding& encoding) const {
    const uint64_t rows = weights_t.size() / cols_;
    std::vector<double> squares(rows), counts(rows);
    for (uint64_t c = 0; c < cols_; ++c) {
      const uint8_t* outlier = encoding.outliers ? encoding.outliers->mask(c) : nullptr;
      for (uint64_t r = 0; r < rows; ++r) {
        if (outlier != nullptr && outlier[r] != 0) continue;
        const double weight = static_cast<double>(weights_t[c * rows + r]);
        squares[r] += weight * weight;
        counts[r] += 1;
      }
    }
    if (options_.scales == TileScales::kTensor) {
      double square = 0, count = 0;
      for (uint64_t r = 0; r < rows; ++r) {
        square += squares[r];
        count += counts[r];
      }
      squares.assign(rows, square);
      counts.assign(rows, count);
    }
    const double input_rms = static_cast<double>(code_.input_rms(/*feedback=*/hessian_ != nullptr));
    std::vector<double> units(rows);
    for (uint64_t r = 0; r < rows; ++r) {
      units[r] = counts[r] == 0 ? 0 : std::sqrt(squares[r] / counts[r]) / input_rms;
    }
    return units;
  }

  absl::Status Round(absl::Span<const float> weights_t, absl::Span<const double> units,
                     double factor, TileEncoding& encoding) {
    const uint64_t rows = units.size();
    encoding.scales.resize(rows);
    for (uint64_t r = 0; r < rows; ++r) {
      const auto scale = static_cast<float>(units[r] * factor);
      encoding.scales[r] =
          options_.scales == TileScales::kTensor ? scale : BFloat16ToFloat(FloatToBFloat16(scale));
    }
    TileColumns columns(code_, search_, encoding.scales, cols_,
                        encoding.outliers ? &*encoding.outliers : nullptr);
    std::vector<float> decoded_t(weights_t.size());
    if (hessian_ == nullptr) {
      QL_RETURN_IF_ERROR(
          RoundToNearest(weights_t, rows, columns, absl::MakeSpan(decoded_t), team_));
      encoding.loss = RelativeError(weights_t, decoded_t, rows, importance_);
    } else {
      QL_RETURN_IF_ERROR(
          Ldlq(hessian_->ldl, weights_t, rows, columns, absl::MakeSpan(decoded_t), team_));
      encoding.loss = ProxyLoss(hessian_->hessian, weights_t, decoded_t, rows, team_);
    }
    encoding.codes = columns.TakeCodes();
    return absl::OkStatus();
  }

  // The multiple of `units` that loses least on a sample of rows, by golden-section search.
  absl::StatusOr<double> ScaleFactor(absl::Span<const float> weights_t,
                                     absl::Span<const double> units) {
    const uint64_t rows = units.size(), count = std::min(kScaleRows, rows);
    std::vector<float> sample(count * cols_);
    std::vector<double> sample_units(count);
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t row = i * rows / count;
      sample_units[i] = units[row];
      for (uint64_t c = 0; c < cols_; ++c) sample[c * count + i] = weights_t[c * rows + row];
    }
    TileEncoding encoding;
    FindOutliers(sample, encoding);
    const auto loss = [&](double factor) -> absl::StatusOr<double> {
      QL_RETURN_IF_ERROR(Round(sample, sample_units, factor, encoding));
      return encoding.loss;
    };
    constexpr double kGolden = 0.6180339887498949;
    double from = kScaleFrom, to = kScaleTo;
    double low = to - kGolden * (to - from), high = from + kGolden * (to - from);
    QL_ASSIGN_OR_RETURN(double low_loss, loss(low));
    QL_ASSIGN_OR_RETURN(double high_loss, loss(high));
    for (int step = 2; step < kScaleSteps; ++step) {
      if (low_loss <= high_loss) {
        to = high;
        high = low;
        high_loss = low_loss;
        low = to - kGolden * (to - from);
        QL_ASSIGN_OR_RETURN(low_loss, loss(low));
      } else {
        from = low;
        low = high;
        low_loss = high_loss;
        high = from + kGolden * (to - from);
        QL_ASSIGN_OR_RETURN(high_loss, loss(high));
      }
    }
    return low_loss <= high_loss ? low : high;
  }

  const TileCode& code_;
  const TileOptions& options_;
  TrellisSearch* search_;
  const FactoredHessian* hessian_;
  absl::Span<const float> importance_;
  std::vector<double> outlier_importance_;
  uint64_t cols_;
  ThreadTeam& team_;
};

Plane ScalePlane(TileScales kind, absl::Span<const float> scales) {
  if (kind == TileScales::kTensor) {
    Plane plane = NewPlane("scale", DType::kF32, sizeof(float));
    std::memcpy(plane.bytes.data(), &scales[0], sizeof(float));
    return plane;
  }
  Plane plane = NewPlane("scale", DType::kBF16, 2 * scales.size());
  for (size_t r = 0; r < scales.size(); ++r) {
    const uint16_t stored = FloatToBFloat16(scales[r]);
    std::memcpy(plane.bytes.data() + 2 * r, &stored, sizeof(stored));
  }
  return plane;
}

absl::StatusOr<EncodedMatrix> EncodeTiles(const TileCode& code, const TileOptions& options,
                                          Recipe recipe, const EncodeInput& input,
                                          ThreadTeam& team) {
  QL_RETURN_IF_ERROR(CheckEncodeInput(recipe.codec, input, team).status());
  TileOptions resolved = options;
  resolved.incoherence.input_seed = input.input_seed;
  resolved.incoherence.output_seed = input.output_seed;
  resolved.ldlq = options.ldlq && input.hessian != nullptr;
  if (RowOutliers(options.outliers.share, input.cols) == 0) {
    resolved.outliers.share = 0;
    resolved.outliers.index_bits = 0;
  }
  const Incoherence incoherence(input.rows, input.cols, resolved.incoherence);

  std::vector<float> weights(input.weights.begin(), input.weights.end());
  incoherence.TransformWeights(absl::MakeSpan(weights), team);
  const std::vector<float> weights_t = Transposed(weights, input.rows, input.cols, team);
  std::shared_ptr<const FactoredHessian> hessian;
  if (resolved.ldlq) {
    QL_ASSIGN_OR_RETURN(
        hessian, input.hessian->Factor(incoherence, code.tile_cols(), ColumnOrder::kStored, team));
  }
  std::vector<float> importance;
  if (hessian) {
    importance = hessian->hessian.MeanSquares();
  } else if (resolved.incoherence.kind == IncoherenceKind::kNone) {
    importance.assign(input.importance.begin(), input.importance.end());
  }
  QL_ASSIGN_OR_RETURN(TileEncoding encoding,
                      MatrixEncoder(code, resolved, input.trellis_search, hessian.get(), importance,
                                    input.cols, team)
                          .Run(weights_t));

  EncodedMatrix encoded;
  encoded.relative_error = encoding.loss;
  Plane codes = NewPlane("codes", DType::kU8, encoding.codes.size());
  std::copy(encoding.codes.begin(), encoding.codes.end(), codes.bytes.begin());
  encoded.planes.push_back(std::move(codes));
  encoded.planes.push_back(ScalePlane(resolved.scales, encoding.scales));
  if (encoding.outliers) {
    QL_ASSIGN_OR_RETURN(resolved.outliers.index_bits, encoding.outliers->Write(encoded.planes));
  }
  resolved.AddTo(recipe, /*resolved=*/true);
  encoded.recipe = recipe.ToString();
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

}  // namespace quantloom
