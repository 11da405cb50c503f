#include "kernels/cpu/linear.h"

#include <utility>

#include "core/codec/e8p_tiles.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis_tiles.h"
#include "core/transform/incoherence.h"
#include "kernels/cpu/decoded_operator.h"
#include "kernels/cpu/e8p_operator.h"
#include "kernels/cpu/icquant_kernels.h"
#include "kernels/cpu/icquant_operator.h"
#include "kernels/cpu/trellis_operator.h"

namespace quantloom::cpu {

ActivationForm BestActivationForm(const PackedMatrix& matrix, bool keys_values) {
  const auto* icquant = dynamic_cast<const IcquantMatrix*>(&matrix);
  if (icquant == nullptr) return ActivationForm::kInt8;
  if (icquant->code_bits() <= kMaxWideBits) return ActivationForm::kInt8Wide;
  return keys_values || icquant->code_bits() == 8 ? ActivationForm::kInt16 : ActivationForm::kInt8;
}

std::unique_ptr<LinearOperator> LinearOperator::FromPacked(std::unique_ptr<PackedMatrix> matrix,
                                                           std::optional<ActivationForm> form) {
  if (!form) form = BestActivationForm(*matrix);
  if (form == ActivationForm::kFloat) return MakeDecodedOperator(std::move(matrix));
  if (dynamic_cast<IcquantMatrix*>(matrix.get()) != nullptr) {
    return MakeIcquantOperator(
        std::unique_ptr<IcquantMatrix>(static_cast<IcquantMatrix*>(matrix.release())), *form);
  }
  auto* const tiles = dynamic_cast<TileMatrix*>(matrix.get());
  if (tiles != nullptr && !tiles->has_outliers()) {
    const auto owned = [&] {
      return std::unique_ptr<TileMatrix>(static_cast<TileMatrix*>(matrix.release()));
    };
    const TrellisFormat* const trellis = TrellisFormatOf(tiles->code());
    if (trellis != nullptr && HasTrellisProduct(*trellis)) {
      return MakeTrellisOperator(owned(), *trellis);
    }
    if (const E8pRate* const rate = E8pRateOf(tiles->code()))
      return MakeE8pOperator(owned(), *rate);
  }
  return MakeDecodedOperator(std::move(matrix));
}

void LinearOperator::DecodeRow(uint64_t row, float* out) const {
  DecodeStoredRow(row, out);
  if (incoherence() == nullptr || incoherence()->input() == nullptr) return;
  incoherence()->input()->Apply(Direction::kTransposed, absl::MakeSpan(out, cols()));
}

bool LinearOperator::decodes_rows() const {
  return incoherence() == nullptr || incoherence()->output() == nullptr;
}

}  // namespace quantloom::cpu
