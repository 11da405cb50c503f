#include "kernels/cpu/e8p_operator.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "core/codec/e8p_tiles.h"
#include "core/codec/plane_set.h"
#include "kernels/cpu/aligned.h"
#include "kernels/cpu/e8p_kernels.h"
#include "kernels/cpu/token_blocks.h"

namespace quantloom::cpu {
namespace {

static_assert(std::endian::native == std::endian::little, "byte i of a word is coordinate i");

constexpr uint64_t kOnes = 0x0101010101010101;

// Vectors of 8 bytes by the codes' bytes. Decoding is three look-ups of 8 bytes, an exclusive or
// and an addition for 8 weights: with the loads of a code and the store, two cycles.
struct VectorTables {
  uint64_t e8p[256];      // kE8pTable's entries
  uint64_t one_bit[256];  // kE8OneBitTable's
  uint64_t flips[256];    // by a code's low byte: 0xFF where the coordinate is negated
  uint64_t shifts[256];   // what is added then: 1 where it was negated, and the shift of +-1

  VectorTables() {
    for (int i = 0; i < 256; ++i) {
      std::memcpy(&e8p[i], kE8pTable.entry[i], 8);
      std::memcpy(&one_bit[i], kE8OneBitTable.entry[i], 8);
      flips[i] = 0;
      for (int c = 1; c < kE8Dimensions; ++c) {
        if ((i >> c & 1) != 0) flips[i] ^= uint64_t{0xFF} << (8 * c) | 0xFF;
      }
      shifts[i] = (i & 1) != 0 ? (flips[i] & kOnes) + kOnes : (flips[i] & kOnes) - kOnes;
    }
  }

  // Eight bytes at once: no byte's sum carries into the next. Entries are +-2, +-6, +-10, so an
  // entry or its complement is neither 0, which would borrow when 1 is taken away, nor, of those to
  // which 1 or 2 is added, above 0xFD.
  uint64_t E8p(uint32_t code) const {
    return (e8p[code >> 8] ^ flips[code & 0xFF]) + shifts[code & 0xFF];
  }
};

const VectorTables& Tables() {
  static const VectorTables tables;
  return tables;
}

template <size_t kBits>
void DecodeVectors(const uint8_t* code, uint64_t vectors, int8_t* first, int8_t* second) {
  const VectorTables& tables = Tables();
  for (uint64_t v = 0; v < vectors; ++v, code += kBits) {
    const uint64_t bytes = tables.E8p(LoadU16(code, 0));
    std::memcpy(first + 8 * v, &bytes, 8);
    if constexpr (kBits == 2) continue;
    const uint64_t residual = kBits == 3 ? tables.one_bit[code[2]] : tables.E8p(LoadU16(code, 1));
    std::memcpy(second + 8 * v, &residual, 8);
  }
}

class E8pOperator final : public LinearOperator {
 public:
  E8pOperator(std::unique_ptr<TileMatrix> matrix, const E8pRate& rate)
      : LinearOperator(matrix->rows(), matrix->cols()), matrix_(std::move(matrix)), rate_(rate) {
    scales_.resize(rows());
    for (uint64_t row = 0; row < rows(); ++row) scales_[row] = matrix_->scale(row) * kE8pUnit;
  }

  bool needs_quantized_activations() const override { return true; }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    constexpr size_t kRows = E8pPanel::kRows;
    const bool two_stages = rate_.bits > 2;
    thread_local AlignedVector<int8_t> decoded;
    decoded.resize(2 * kRows * x.padded_cols());
    int8_t* const first = decoded.data();
    int8_t* const second = two_stages ? first + kRows * x.padded_cols() : nullptr;
    for (size_t row = row_begin; row < row_end; row += kRows) {
      const size_t count = std::min(kRows, row_end - row);
      for (size_t r = 0; r < count; ++r) {
        DecodeRowTo(row + r, first + r * x.padded_cols(),
                    two_stages ? second + r * x.padded_cols() : nullptr);
      }
      const E8pPanel panel = {first, second, x.padded_cols(),
                              two_stages ? rate_.residual_step() / kE8pUnit : 0.0f,
                              scales_.data() + row};
      ForTokenBlocks(x.tokens(), x.padded_cols(), [&](size_t begin, size_t tokens) {
        MultiplyE8pPanel(panel, x, {row, row + count, begin, tokens, y + begin * stride, stride});
      });
    }
  }

  uint64_t weight_bytes() const override { return matrix_->grid().bytes(); }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    matrix_->DecodeTile(row, 1, 0, cols(), out, cols());
  }

  void DecodeRowTo(uint64_t row, int8_t* first, int8_t* second) const {
    const uint8_t* codes = matrix_->tile(row, 0);
    const uint64_t vectors = matrix_->grid().col_tiles;
    if (rate_.bits == 2) return DecodeVectors<2>(codes, vectors, first, second);
    if (rate_.bits == 3) return DecodeVectors<3>(codes, vectors, first, second);
    DecodeVectors<4>(codes, vectors, first, second);
  }

  std::unique_ptr<TileMatrix> matrix_;
  E8pRate rate_;
  std::vector<float> scales_;
};

}  // namespace

std::optional<E8pRate> PlainE8p(const PackedMatrix& matrix) {
  const auto* tiles = dynamic_cast<const TileMatrix*>(&matrix);
  if (tiles == nullptr || tiles->has_outliers()) return std::nullopt;
  absl::StatusOr<Recipe> recipe = Recipe::Parse(matrix.recipe());
  if (!recipe.ok() || recipe->codec != "quip") return std::nullopt;
  const absl::StatusOr<E8pRate> rate = TakeE8pRate(*recipe);
  return rate.ok() ? std::optional(*rate) : std::nullopt;
}

std::unique_ptr<LinearOperator> MakeE8pOperator(std::unique_ptr<TileMatrix> matrix,
                                                const E8pRate& rate) {
  return std::make_unique<E8pOperator>(std::move(matrix), rate);
}

}  // namespace quantloom::cpu
