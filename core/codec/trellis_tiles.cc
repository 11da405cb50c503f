#include "core/codec/trellis_tiles.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quantloom {
namespace {

constexpr uint64_t kTileSide = 16;
constexpr char kBitsAllowed[] = "1 to 4 in steps of 0.5, and 5 to 8 unless code=hyb";

struct CodeName {
  absl::string_view name;
  TrellisCode code;
};
constexpr CodeName kCodeNames[] = {{"1mad", TrellisCode::k1Mad},
                                   {"mul1", TrellisCode::kMul1},
                                   {"3inst", TrellisCode::k3Inst},
                                   {"hyb", TrellisCode::kHyb}};

class TrellisTiles final : public TileCode {
 public:
  explicit TrellisTiles(const TrellisFormat& format) : format_(format) {}

  uint64_t tile_rows() const override { return kTileSide; }
  uint64_t tile_cols() const override { return kTileSide; }
  uint64_t tile_bytes() const override { return format_.tile_bytes(); }
  float input_rms(bool) const override {
    return TrellisCodebookRms(format_.code()) * TrellisScaleFactor(format_);
  }

  void Encode(const float* targets, const uint8_t* ignored, uint64_t columns, uint64_t rows,
              uint8_t* codes, uint64_t stride, float* decoded, ThreadTeam& team) const override {
    const uint64_t tiles = (rows + kTileSide - 1) / kTileSide;
    team.ParallelFor(tiles, 1, [&](size_t begin, size_t end, int) {
      std::unique_ptr<TileEncoder> encoder = TakeEncoder();
      for (size_t tile = begin; tile < end; ++tile) {
        const uint64_t first = tile * kTileSide;
        EncodeTile(*encoder, targets + first, ignored == nullptr ? nullptr : ignored + first,
                   columns, std::min(kTileSide, rows - first), rows, codes + tile * stride,
                   decoded + first);
      }
      const std::lock_guard lock(mutex_);
      idle_.push_back(std::move(encoder));
    });
  }

  void Decode(const uint8_t* code, float* values) const override {
    quantloom::DecodeTile(format_, code, values);
  }

 private:
  // One tile of targets [columns, height], columns `column_stride` elements apart.
  static void EncodeTile(TileEncoder& encoder, const float* targets, const uint8_t* ignored,
                         uint64_t columns, uint64_t height, uint64_t column_stride, uint8_t* code,
                         float* decoded) {
    float sequence[kTileWeights] = {};
    for (uint64_t c = 0; c < columns; ++c) {
      for (uint64_t r = 0; r < height; ++r) {
        sequence[r * kTileSide + c] = targets[c * column_stride + r];
      }
    }
    if (columns == kTileSide && height == kTileSide && ignored == nullptr) {
      encoder.Encode(sequence, code, sequence);
    } else {
      TileEncoder::Ignored without_weight;
      for (uint64_t t = 0; t < kTileWeights; ++t) {
        const uint64_t c = t % kTileSide, r = t / kTileSide;
        without_weight[t] = c >= columns || r >= height ||
                            (ignored != nullptr && ignored[c * column_stride + r] != 0);
      }
      encoder.Encode(sequence, without_weight, code, sequence);
    }
    for (uint64_t c = 0; c < columns; ++c) {
      for (uint64_t r = 0; r < height; ++r) {
        decoded[c * column_stride + r] = sequence[r * kTileSide + c];
      }
    }
  }

  std::unique_ptr<TileEncoder> TakeEncoder() const {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<TileEncoder> encoder = std::move(idle_.back());
        idle_.pop_back();
        return encoder;
      }
    }
    return std::make_unique<TileEncoder>(format_);
  }

  TrellisFormat format_;
  // Encoders own megabytes of workspace and are made once per thread.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<TileEncoder>> idle_;
};

absl::Status BadValue(const Recipe& recipe, absl::string_view key, absl::string_view value,
                      absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(recipe.codec, ": ", key, "=", value, ": allowed are ", allowed));
}

}  // namespace

std::unique_ptr<const TileCode> MakeTrellisTiles(const TrellisFormat& format) {
  return std::make_unique<TrellisTiles>(format);
}

absl::StatusOr<TrellisFormat> TakeTrellisFormat(Recipe& recipe) {
  TrellisCode code = TrellisCode::kMul1;
  if (const auto it = recipe.options.find("code"); it != recipe.options.end()) {
    const auto* found = std::find_if(std::begin(kCodeNames), std::end(kCodeNames),
                                     [&](const CodeName& c) { return c.name == it->second; });
    if (found == std::end(kCodeNames)) {
      return BadValue(recipe, "code", it->second, "1mad, mul1, 3inst, hyb");
    }
    code = found->code;
    recipe.options.erase(it);
  }
  std::string text = "2";
  if (const auto it = recipe.options.find("bits"); it != recipe.options.end()) {
    text = it->second;
    recipe.options.erase(it);
  }
  double bits = 0;
  if (!absl::SimpleAtod(text, &bits)) return BadValue(recipe, "bits", text, kBitsAllowed);
  const double half_bits = bits * 2;
  const bool in_steps = half_bits >= 0 && half_bits <= 32 && half_bits == std::floor(half_bits);
  const auto format = TrellisFormat::Create(code, in_steps ? static_cast<int>(half_bits) : 0);
  if (!format.ok()) return BadValue(recipe, "bits", text, kBitsAllowed);
  return *format;
}

void AddTrellisFormat(const TrellisFormat& format, Recipe& recipe) {
  recipe.options["bits"] = absl::StrCat(format.bits());
  for (const CodeName& c : kCodeNames) {
    if (c.code == format.code()) recipe.options["code"] = std::string(c.name);
  }
}

std::vector<std::pair<std::string, std::string>> TrellisOptionDescriptions() {
  return {
      {"bits", "bits per weight: 1 to 4 in steps of 0.5, and 5 to 8 unless code=hyb; default 2"},
      {"code", "how a trellis state becomes a value: mul1, 1mad, 3inst or hyb; default mul1"}};
}

}  // namespace quantloom
