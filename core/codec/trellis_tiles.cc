#include "core/codec/trellis_tiles.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/trellis_search.h"

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

  const TrellisFormat& format() const { return format_; }

  uint64_t tile_rows() const override { return kTileSide; }
  uint64_t tile_cols() const override { return kTileSide; }
  uint64_t tile_bytes() const override { return format_.tile_bytes(); }
  float input_rms(bool) const override {
    return TrellisCodebookRms(format_.code()) * TrellisScaleFactor(format_);
  }

  absl::Status Encode(const TileColumn& column, TrellisSearch* search,
                      ThreadTeam& team) const override {
    const uint64_t tiles = (column.rows + kTileSide - 1) / kTileSide;
    // A multiprocessor takes about as long for a tile as a thread. So a device gains nothing where
    // every thread has at most one, as in the search for a scale.
    const bool few = tiles <= static_cast<uint64_t>(team.size());
    if (search != nullptr && !few && search->Takes(format_)) {
      return EncodeWith(*search, column, tiles, team);
    }
    team.ParallelFor(tiles, 1, [&](size_t begin, size_t end, int) {
      std::unique_ptr<TileEncoder> encoder = TakeEncoder();
      for (size_t tile = begin; tile < end; ++tile) {
        float sequence[kTileWeights];
        TileEncoder::Ignored without_weight;
        Gather(column, tile, sequence, without_weight);
        encoder->Encode(sequence, without_weight, column.codes + tile * column.stride, sequence);
        Scatter(sequence, tile, column);
      }
      const std::lock_guard lock(mutex_);
      idle_.push_back(std::move(encoder));
    });
    return absl::OkStatus();
  }

  void Decode(const uint8_t* code, float* values) const override {
    quantloom::DecodeTile(format_, code, values);
  }

 private:
  // All tiles of the column in one search.
  absl::Status EncodeWith(TrellisSearch& search, const TileColumn& column, uint64_t tiles,
                          ThreadTeam& team) const {
    const TrellisIntegers integers(format_);
    const bool whole =
        column.columns == kTileSide && column.rows % kTileSide == 0 && column.ignored == nullptr;
    std::vector<int16_t> targets(tiles * kTileWeights);
    std::vector<uint8_t> ignored(whole ? 0 : targets.size());
    std::vector<uint8_t> bits(tiles * format_.tile_bytes());
    team.ParallelFor(tiles, 4, [&](size_t begin, size_t end, int) {
      for (size_t tile = begin; tile < end; ++tile) {
        float sequence[kTileWeights];
        TileEncoder::Ignored without_weight;
        Gather(column, tile, sequence, without_weight);
        for (size_t t = 0; t < kTileWeights; ++t) {
          targets[tile * kTileWeights + t] = integers.Target(sequence[t]);
          if (!whole) ignored[tile * kTileWeights + t] = without_weight[t] ? 1 : 0;
        }
      }
    });
    QL_RETURN_IF_ERROR(search.Run(format_, targets, ignored, absl::MakeSpan(bits)));
    team.ParallelFor(tiles, 4, [&](size_t begin, size_t end, int) {
      for (size_t tile = begin; tile < end; ++tile) {
        float sequence[kTileWeights];
        uint8_t* const code = column.codes + tile * column.stride;
        std::copy_n(bits.data() + tile * format_.tile_bytes(), format_.tile_bytes(), code);
        Decode(code, sequence);
        Scatter(sequence, tile, column);
      }
    });
    return absl::OkStatus();
  }

  // A tile's targets as a sequence, and which of it do not matter: ignored ones and those past the
  // matrix's edge, which are zeros.
  static void Gather(const TileColumn& column, uint64_t tile, float* sequence,
                     TileEncoder::Ignored& without_weight) {
    const uint64_t first = tile * kTileSide;
    for (uint64_t t = 0; t < kTileWeights; ++t) {
      const uint64_t c = t % kTileSide, r = first + t / kTileSide;
      const bool outside = c >= column.columns || r >= column.rows;
      const uint64_t at = c * column.rows + r;
      sequence[t] = outside ? 0 : column.targets[at];
      without_weight[t] = outside || (column.ignored != nullptr && column.ignored[at] != 0);
    }
  }

  // A tile's values back to their places.
  static void Scatter(const float* sequence, uint64_t tile, const TileColumn& column) {
    const uint64_t first = tile * kTileSide;
    const uint64_t height = std::min(kTileSide, column.rows - first);
    for (uint64_t c = 0; c < column.columns; ++c) {
      for (uint64_t r = 0; r < height; ++r) {
        column.decoded[c * column.rows + first + r] = sequence[r * kTileSide + c];
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

const TrellisFormat* TrellisFormatOf(const TileCode& code) {
  const auto* tiles = dynamic_cast<const TrellisTiles*>(&code);
  return tiles == nullptr ? nullptr : &tiles->format();
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
