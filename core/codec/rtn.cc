// Plain round-to-nearest quantization in groups, what all other codecs are measured against: the
// smallest codec there is, and the example of docs/adding-a-codec.md.
//
// Weights of a row are taken in groups of columns. A group stores its lowest level and the step to
// the next, so that the 2^bits levels cover the group's range, and every weight the number of a
// level. With calibration, rounding is nearest to the feedback targets of LDLQ on the same levels.
//
// Planes (docs/rtn.md):
//   codes   U8    rows x CodeRowBytes(bits, cols), see code_packing.h
//   levels  BF16  [rows, groups, 2]: lowest, step; a value is lowest + step * code
//
// BF16 has the range of any weight; lowest is rounded down and step up, so that the levels still
// cover the group, and step * code is exact in float.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/code_packing.h"
#include "core/codec/encode_input.h"
#include "core/codec/plane_set.h"
#include "core/codec/recipe_options.h"
#include "core/codec/registry.h"
#include "core/rounding/hessian_factors.h"
#include "core/rounding/ldlq.h"
#include "core/rounding/proxy_loss.h"

namespace quantloom {
namespace {

constexpr uint64_t kMaxGroup = uint64_t{1} << 20;

struct RtnOptions {
  int bits = 4;
  uint64_t group = 64;  // columns
  bool ldlq = true;

  static absl::StatusOr<RtnOptions> FromRecipe(Recipe recipe) {
    RtnOptions options;
    QL_ASSIGN_OR_RETURN(options.bits, TakeBits(recipe, 4));
    QL_ASSIGN_OR_RETURN(options.ldlq, TakeLdlq(recipe, /*otherwise=*/true));
    if (const auto it = recipe.options.find("group"); it != recipe.options.end()) {
      if (!absl::SimpleAtoi(it->second, &options.group) || options.group < 8 ||
          options.group > kMaxGroup) {
        return absl::InvalidArgumentError(
            absl::StrCat("rtn: group=", it->second, ": allowed are 8 to ", kMaxGroup));
      }
      recipe.options.erase(it);
    }
    QL_RETURN_IF_ERROR(CheckAllTaken(recipe, "bits, group, rounding"));
    return options;
  }

  std::string ToRecipe() const {
    return Recipe{.codec = "rtn",
                  .options = {{"bits", absl::StrCat(bits)},
                              {"group", absl::StrCat(group)},
                              {"rounding", RoundingName(ldlq)}}}
        .ToString();
  }

  uint64_t Groups(uint64_t cols) const { return (cols + group - 1) / group; }
};

// The next BF16 below or equal to x (above or equal for `up`).
uint16_t DirectedBFloat16(float x, bool up) {
  const auto bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);  // towards zero
  const bool away = BFloat16ToFloat(bits) != x && (x > 0) == up;
  return static_cast<uint16_t>(bits + (away ? 1 : 0));
}

struct GroupLevels {
  uint16_t lowest = 0;  // BF16
  uint16_t step = 0;    // BF16, >= 0

  float Value(uint32_t code) const {
    return BFloat16ToFloat(lowest) + BFloat16ToFloat(step) * static_cast<float>(code);
  }
};

GroupLevels FitLevels(absl::Span<const float> weights, int bits) {
  const auto [lowest, highest] = std::minmax_element(weights.begin(), weights.end());
  GroupLevels levels;
  levels.lowest = DirectedBFloat16(*lowest, /*up=*/false);
  const float range = *highest - BFloat16ToFloat(levels.lowest);
  levels.step = DirectedBFloat16(range / static_cast<float>((1 << bits) - 1), /*up=*/true);
  return levels;
}

class RtnMatrix final : public PackedMatrix {
 public:
  RtnMatrix(const RtnOptions& options, uint64_t rows, uint64_t cols)
      : PackedMatrix(options.ToRecipe(), rows, cols), options_(options) {}

  absl::Status SetPlanes(absl::Span<const PlaneView> planes) {
    const uint64_t groups = options_.Groups(cols());
    PlaneSet set(planes);
    QL_ASSIGN_OR_RETURN(
        codes_, set.Take("codes", DType::kU8, rows() * CodeRowBytes(options_.bits, cols())));
    const uint64_t code_bytes = set.content_bytes();
    QL_ASSIGN_OR_RETURN(levels_, set.Take("levels", DType::kBF16, rows() * groups * 4));
    QL_RETURN_IF_ERROR(set.CheckAllTaken());
    for (uint64_t row = 0; row < rows(); ++row) {
      for (uint64_t g = 0; g < groups; ++g) {
        const GroupLevels levels = Levels(row, g);
        if (!(BFloat16ToFloat(levels.step) >= 0) || !std::isfinite(levels.Value(0)) ||
            !std::isfinite(levels.Value((1u << options_.bits) - 1))) {
          return CorruptPlane("levels", absl::StrCat("has levels that are not finite or a negative "
                                                     "step in row ",
                                                     row, ", group ", g));
        }
      }
    }
    const double weights = static_cast<double>(rows()) * static_cast<double>(cols());
    const auto bits_of = [&](uint64_t bytes) { return 8 * static_cast<double>(bytes) / weights; };
    bits_.codes = bits_of(code_bytes);
    bits_.codebooks = bits_of(set.content_bytes() - code_bytes);
    bits_.padding = bits_of(set.stored_bytes() - set.content_bytes());
    return absl::OkStatus();
  }

  void DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                  uint64_t stride) const override {
    const uint64_t row_bytes = CodeRowBytes(options_.bits, this->cols());
    for (uint64_t r = 0; r < rows; ++r) {
      const uint8_t* codes = codes_ + (row + r) * row_bytes;
      for (uint64_t c = 0; c < cols; ++c) {
        const GroupLevels levels = Levels(row + r, (col + c) / options_.group);
        out[r * stride + c] = levels.Value(RowCode(codes, options_.bits, this->cols(), col + c));
      }
    }
  }

  BitBreakdown bits() const override { return bits_; }

 private:
  GroupLevels Levels(uint64_t row, uint64_t group) const {
    const uint64_t first = 2 * (row * options_.Groups(cols()) + group);
    return {.lowest = LoadU16(levels_, first), .step = LoadU16(levels_, first + 1)};
  }

  RtnOptions options_;
  const uint8_t* codes_ = nullptr;
  const uint8_t* levels_ = nullptr;
  BitBreakdown bits_;
};

// Rounds columns to the levels of their groups.
class RtnColumns final : public ColumnQuantizer {
 public:
  RtnColumns(const RtnOptions& options, const EncodeInput& input, ThreadTeam& team)
      : options_(options),
        rows_(input.rows),
        cols_(input.cols),
        groups_(options.Groups(input.cols)),
        levels_(input.rows * groups_),
        codes_(input.rows * input.cols) {
    team.ParallelFor(rows_, 16, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r) {
        for (uint64_t g = 0; g < groups_; ++g) {
          const uint64_t first = g * options.group;
          const uint64_t count = std::min(options.group, cols_ - first);
          levels_[r * groups_ + g] =
              FitLevels(input.weights.subspan(r * cols_ + first, count), options.bits);
        }
      }
    });
  }

  uint64_t width() const override { return 1; }

  absl::Status Quantize(uint64_t first_column, uint64_t, const float* targets, float* decoded,
                        ThreadTeam& team) override {
    const uint64_t group = first_column / options_.group;
    const float last = static_cast<float>((1 << options_.bits) - 1);
    team.ParallelFor(rows_, 256, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r) {
        const GroupLevels& levels = levels_[r * groups_ + group];
        const float step = BFloat16ToFloat(levels.step);
        const float place = step == 0 ? 0 : (targets[r] - levels.Value(0)) / step;
        const auto code = static_cast<uint8_t>(std::clamp(std::round(place), 0.0f, last));
        codes_[r * cols_ + first_column] = code;
        decoded[r] = levels.Value(code);
      }
    });
    return absl::OkStatus();
  }

  std::vector<Plane> Planes(ThreadTeam& team) const {
    const uint64_t row_bytes = CodeRowBytes(options_.bits, cols_);
    Plane codes = NewPlane("codes", DType::kU8, rows_ * row_bytes);
    Plane levels = NewPlane("levels", DType::kBF16, levels_.size() * 4);
    team.ParallelFor(rows_, 16, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r) {
        PackCodes(codes_.data() + r * cols_, options_.bits, cols_,
                  codes.bytes.data() + r * row_bytes);
      }
    });
    for (size_t i = 0; i < levels_.size(); ++i) {
      std::memcpy(levels.bytes.data() + 4 * i, &levels_[i].lowest, 2);
      std::memcpy(levels.bytes.data() + 4 * i + 2, &levels_[i].step, 2);
    }
    std::vector<Plane> planes;
    planes.push_back(std::move(codes));
    planes.push_back(std::move(levels));
    return planes;
  }

 private:
  RtnOptions options_;
  uint64_t rows_;
  uint64_t cols_;
  uint64_t groups_;
  std::vector<GroupLevels> levels_;  // [rows, groups]
  std::vector<uint8_t> codes_;       // [rows, cols]
};

class RtnCodec final : public Codec {
 public:
  explicit RtnCodec(const RtnOptions& options) : options_(options) {}

  std::string recipe() const override { return options_.ToRecipe(); }

  absl::StatusOr<EncodedMatrix> Encode(const EncodeInput& input, ThreadTeam& team) const override {
    QL_RETURN_IF_ERROR(CheckEncodeInput("rtn", input, team).status());
    RtnOptions resolved = options_;
    resolved.ldlq = options_.ldlq && input.hessian != nullptr;
    const std::vector<float> weights_t = Transposed(input.weights, input.rows, input.cols, team);
    std::vector<float> decoded_t(weights_t.size());
    RtnColumns columns(resolved, input, team);
    EncodedMatrix encoded;
    if (resolved.ldlq) {
      const Incoherence as_it_is(input.rows, input.cols, {.kind = IncoherenceKind::kNone});
      QL_ASSIGN_OR_RETURN(const auto factored,
                          input.hessian->Factor(as_it_is, 1, ColumnOrder::kStored, team));
      QL_RETURN_IF_ERROR(
          Ldlq(factored->ldl, weights_t, input.rows, columns, absl::MakeSpan(decoded_t), team));
      encoded.relative_error = ProxyLoss(factored->hessian, weights_t, decoded_t, input.rows, team);
    } else {
      QL_RETURN_IF_ERROR(
          RoundToNearest(weights_t, input.rows, columns, absl::MakeSpan(decoded_t), team));
      encoded.relative_error = RelativeError(weights_t, decoded_t, input.rows, input.importance);
    }
    encoded.recipe = resolved.ToRecipe();
    encoded.planes = columns.Planes(team);
    return encoded;
  }

 private:
  RtnOptions options_;
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(const RtnOptions options, RtnOptions::FromRecipe(recipe));
  return std::make_unique<RtnCodec>(options);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const RtnOptions options, RtnOptions::FromRecipe(recipe));
  QL_RETURN_IF_ERROR(CheckShape("rtn", rows, cols));
  auto matrix = std::make_unique<RtnMatrix>(options, rows, cols);
  QL_RETURN_IF_ERROR(matrix->SetPlanes(planes));
  return matrix;
}

}  // namespace

CodecRegistration RtnRegistration() {
  return {.info = {.name = "rtn",
                   .summary = "uniform levels over the range of each group of weights, for "
                              "comparison",
                   .options = {{"bits", "bits of a code: 1, 2, 3, 4 or 8; default 4"},
                               {"group", "columns of a group, 8 to 1048576; default 64"},
                               {"rounding",
                                "ldlq (feedback of rounding errors, with calibration) or nearest; "
                                "default ldlq"}}},
          .create = Create,
          .open = Open};
}

}  // namespace quantloom
