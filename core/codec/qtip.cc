// QTIP (arXiv 2406.11235): trellis-coded quantization of an incoherent matrix in tiles of 16 x 16
// weights. trellis.h is the quantizer of a tile, tile_code.h the rest; docs/tile-codecs.md the
// bytes.
//
// Tile (R, C) holds rows 16 R .. and columns 16 C ..; weight t of its sequence is the one of row
// t / 16 and column t % 16 of the tile.
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/registry.h"
#include "core/codec/tile_code.h"
#include "core/codec/trellis.h"

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

  void Encode(const float* targets, uint64_t columns, uint64_t rows, uint8_t* codes,
              uint64_t stride, float* decoded, ThreadTeam& team) const override {
    const uint64_t tiles = (rows + kTileSide - 1) / kTileSide;
    team.ParallelFor(tiles, 1, [&](size_t begin, size_t end, int) {
      std::unique_ptr<TileEncoder> encoder = TakeEncoder();
      for (size_t tile = begin; tile < end; ++tile) {
        EncodeTile(*encoder, targets + tile * kTileSide, columns,
                   std::min(kTileSide, rows - tile * kTileSide), rows, codes + tile * stride,
                   decoded + tile * kTileSide);
      }
      const std::lock_guard lock(mutex_);
      idle_.push_back(std::move(encoder));
    });
  }

  void Decode(const uint8_t* code, float* values) const override {
    quantloom::DecodeTile(format_, code, values);
  }

 private:
  // One tile of targets [columns, height], columns `column_stride` floats apart.
  static void EncodeTile(TileEncoder& encoder, const float* targets, uint64_t columns,
                         uint64_t height, uint64_t column_stride, uint8_t* code, float* decoded) {
    float sequence[kTileWeights] = {};
    for (uint64_t c = 0; c < columns; ++c) {
      for (uint64_t r = 0; r < height; ++r) {
        sequence[r * kTileSide + c] = targets[c * column_stride + r];
      }
    }
    if (columns == kTileSide && height == kTileSide) {
      encoder.Encode(sequence, code, sequence);
    } else {
      TileEncoder::Ignored ignored;
      for (uint64_t t = 0; t < kTileWeights; ++t) {
        ignored[t] = t % kTileSide >= columns || t / kTileSide >= height;
      }
      encoder.Encode(sequence, ignored, code, sequence);
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

struct QtipOptions {
  TrellisFormat format;
  TileOptions tiles;

  static absl::StatusOr<QtipOptions> FromRecipe(Recipe recipe) {
    QL_ASSIGN_OR_RETURN(const TileOptions tiles, TileOptions::TakeFrom(recipe));
    double bits = 2;
    TrellisCode code = TrellisCode::kMul1;
    for (const auto& [key, value] : recipe.options) {
      if (key == "bits") {
        if (!absl::SimpleAtod(value, &bits)) return BadValue(key, value, kBitsAllowed);
      } else if (key == "code") {
        const auto* found = std::find_if(std::begin(kCodeNames), std::end(kCodeNames),
                                         [&](const CodeName& c) { return c.name == value; });
        if (found == std::end(kCodeNames)) return BadValue(key, value, "1mad, mul1, 3inst, hyb");
        code = found->code;
      } else {
        return absl::InvalidArgumentError(
            absl::StrCat("qtip: unknown key '", key,
                         "': allowed are bits, code, hadamard, incoherence, rounding"));
      }
    }
    const double half_bits = bits * 2;
    const bool in_steps = half_bits >= 0 && half_bits <= 32 && half_bits == std::floor(half_bits);
    const auto format = TrellisFormat::Create(code, in_steps ? static_cast<int>(half_bits) : 0);
    if (!format.ok()) return BadValue("bits", recipe.options["bits"], kBitsAllowed);
    return QtipOptions{*format, tiles};
  }

  // Without the shared options.
  Recipe OwnRecipe() const {
    Recipe recipe{.codec = "qtip", .options = {}};
    recipe.options["bits"] = absl::StrCat(format.bits());
    for (const CodeName& c : kCodeNames) {
      if (c.code == format.code()) recipe.options["code"] = std::string(c.name);
    }
    return recipe;
  }

 private:
  static absl::Status BadValue(absl::string_view key, absl::string_view value,
                               absl::string_view allowed) {
    return absl::InvalidArgumentError(
        absl::StrCat("qtip: ", key, "=", value, ": allowed are ", allowed));
  }
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(const QtipOptions options, QtipOptions::FromRecipe(recipe));
  return MakeTileCodec(std::make_unique<TrellisTiles>(options.format), options.tiles,
                       options.OwnRecipe());
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const QtipOptions options, QtipOptions::FromRecipe(recipe));
  return OpenTiles(std::make_unique<TrellisTiles>(options.format), options.tiles, recipe, rows,
                   cols, planes);
}

}  // namespace

CodecRegistration QtipRegistration() {
  CodecRegistration registration{
      .info = {.name = "qtip",
               .summary = "trellis-coded quantization of 16 x 16 tiles of an incoherent matrix "
                          "(arXiv 2406.11235)",
               .options = {{"bits",
                            "bits per weight: 1 to 4 in steps of 0.5, and 5 to 8 unless code=hyb; "
                            "default 2"},
                           {"code",
                            "how a trellis state becomes a value: mul1, 1mad, 3inst or hyb; "
                            "default mul1"}}},
      .create = Create,
      .open = Open};
  for (auto& option : TileOptionDescriptions()) registration.info.options.push_back(option);
  return registration;
}

}  // namespace quantloom
