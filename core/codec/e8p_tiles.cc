#include "core/codec/e8p_tiles.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quantloom {
namespace {

class E8pTiles final : public TileCode {
 public:
  explicit E8pTiles(const E8pRate& rate) : rate_(rate) {}

  const E8pRate& rate() const { return rate_; }

  uint64_t tile_rows() const override { return 1; }
  uint64_t tile_cols() const override { return kE8Dimensions; }
  uint64_t tile_bytes() const override { return static_cast<uint64_t>(rate_.bits); }
  float input_rms(bool feedback) const override {
    return feedback ? kE8pLdlqInputRms : rate_.input_rms;
  }

  absl::Status Encode(const TileColumn& column, TrellisSearch*, ThreadTeam& team) const override {
    const auto [targets, ignored, columns, rows, first_code, stride, decoded] = column;
    std::vector<uint16_t> first(rows), second(rate_.bits == 2 ? 0 : rows);
    uint16_t* residual = second.empty() ? nullptr : second.data();
    if (columns == kE8Dimensions && ignored == nullptr) {
      EncodeE8p(rate_, targets, nullptr, rows, first.data(), residual, decoded, team);
    } else {
      // Coordinates past the last column have zero targets of weight zero.
      std::vector<float> completed(kE8Dimensions * rows), weights(kE8Dimensions * rows);
      std::copy_n(targets, columns * rows, completed.begin());
      for (uint64_t i = 0; i < columns * rows; ++i) {
        weights[i] = ignored == nullptr || ignored[i] == 0 ? 1.0f : 0.0f;
      }
      std::vector<float> values(kE8Dimensions * rows);
      EncodeE8p(rate_, completed.data(), weights.data(), rows, first.data(), residual,
                values.data(), team);
      std::copy_n(values.begin(), columns * rows, decoded);
    }
    uint8_t* codes = first_code;
    for (uint64_t r = 0; r < rows; ++r, codes += stride) {
      codes[0] = static_cast<uint8_t>(first[r]);
      codes[1] = static_cast<uint8_t>(first[r] >> 8);
      if (rate_.bits > 2) codes[2] = static_cast<uint8_t>(second[r]);
      if (rate_.bits > 3) codes[3] = static_cast<uint8_t>(second[r] >> 8);
    }
    return absl::OkStatus();
  }

  void Decode(const uint8_t* code, float* values) const override {
    const auto first = static_cast<uint16_t>(code[0] | code[1] << 8);
    uint16_t second = 0;
    if (rate_.bits > 2) second = code[2];
    if (rate_.bits > 3) second = static_cast<uint16_t>(second | code[3] << 8);
    DecodeE8pVector(rate_, first, second, values);
  }

 private:
  E8pRate rate_;
};

}  // namespace

std::unique_ptr<const TileCode> MakeE8pTiles(const E8pRate& rate) {
  return std::make_unique<E8pTiles>(rate);
}

const E8pRate* E8pRateOf(const TileCode& code) {
  const auto* tiles = dynamic_cast<const E8pTiles*>(&code);
  return tiles == nullptr ? nullptr : &tiles->rate();
}

absl::StatusOr<E8pRate> TakeE8pRate(Recipe& recipe) {
  int bits = 2;
  if (const auto it = recipe.options.find("bits"); it != recipe.options.end()) {
    if (!absl::SimpleAtoi(it->second, &bits) || bits < 2 || bits > 4) {
      return absl::InvalidArgumentError(
          absl::StrCat(recipe.codec, ": bits=", it->second, ": allowed are 2, 3, 4"));
    }
    recipe.options.erase(it);
  }
  return E8pRateOfBits(bits);
}

void AddE8pRate(const E8pRate& rate, Recipe& recipe) {
  recipe.options["bits"] = absl::StrCat(rate.bits);
}

}  // namespace quantloom
