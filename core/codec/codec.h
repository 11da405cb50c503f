// What a codec is: a named way to store a weight matrix W [rows, cols] in few bits, as named planes
// (arrays), and to get its values back. One codec is one unit (layout, encode, decode, and the
// reasons for them) behind this interface; codec/registry.cc lists them.
//
// A recipe is text, `codec:key=value,key=value`, e.g. "icquant:bits=2,outliers=0.05,inner=kmeans".
// It is parsed once; Recipe::ToString gives the canonical spelling that is echoed in jobs,
// manifests and metrics.
//
// Thread-safety: Codec and PackedMatrix are immutable after construction and may be used from
// several threads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/base/parallel.h"

namespace quantloom {

// A parsed recipe: the codec's name and its options as written. Which keys exist and what values
// they take is the codec's to say (CreateCodec).
struct Recipe {
  std::string codec;
  std::map<std::string, std::string> options;

  // INVALID_ARGUMENT for malformed text: empty codec, missing '=', empty or repeated key.
  static absl::StatusOr<Recipe> Parse(absl::string_view text);
  // "codec:key=value,..." with keys in alphabetical order.
  std::string ToString() const;
};

// The shortest decimal that reads back as the same number: how recipes spell one.
std::string ShortestDecimal(double value);

// A matrix has at most this many rows or columns, so that no plane's size overflows.
inline constexpr uint64_t kMaxMatrixDimension = (uint64_t{1} << 31) - 1;

// A plane's name, element type and shape, and a view of its little-endian bytes.
struct PlaneView {
  std::string name;  // e.g. "codes"; stored in a packed model as "<tensor>.<name>"
  DType dtype;
  std::vector<uint64_t> shape;
  absl::Span<const uint8_t> bytes;
};

// A plane that owns its bytes.
struct Plane {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
  std::vector<uint8_t> bytes;

  PlaneView view() const { return {name, dtype, shape, bytes}; }
};

// Where a matrix's bits go, in bits per weight (stored bits / (rows * cols)). Everything stored is
// in one of them.
struct BitBreakdown {
  double codes = 0;
  double index = 0;        // outlier positions: the gap stream alone
  double checkpoints = 0;  // random access into the gap stream
  double codebooks = 0;    // centroids, scales, offsets
  double padding = 0;      // alignment of planes
  double total() const { return codes + index + checkpoints + codebooks + padding; }
};

class Incoherence;     // core/transform/incoherence.h
class HessianFactors;  // core/rounding/hessian_factors.h
class TrellisSearch;   // core/codec/trellis_search.h

// A weight matrix to encode, and what is known of its inputs. Views: the caller keeps the arrays.
struct EncodeInput {
  absl::Span<const float> weights = {};  // row-major [rows, cols]
  uint64_t rows = 0;
  uint64_t cols = 0;
  // A non-negative weight per column, the diagonal of the layer's Hessian (E[x_c^2]); empty:
  // uniform.
  absl::Span<const float> importance = {};
  // The layer's Hessian, shared by the layers with one input. Null: rounding to nearest, whatever
  // the recipe says. Caches factors: one Encode at a time may use it.
  HessianFactors* hessian = nullptr;
  // Seeds of incoherence processing's random signs. Layers with one input share `input_seed`.
  uint64_t input_seed = 0;
  uint64_t output_seed = 0;
  // Where trellis codes search, null for the team's threads. The bytes are the same.
  TrellisSearch* trellis_search = nullptr;
};

// The result of encoding.
struct EncodedMatrix {
  // The recipe with every choice the encoder made resolved ("codebook=auto" becomes the form that
  // was chosen), in canonical spelling: what OpenMatrix needs besides the planes.
  std::string recipe;
  std::vector<Plane> planes;
  // The proxy loss tr(E H E^T) / tr(W H W^T), E = W - decoded, where errors were fed back; else
  // sum_rc importance_c e_rc^2 / sum_rc importance_c w_rc^2. 0 for an all-zero matrix.
  double relative_error = 0;
};

// A stored matrix, validated, ready to decode. Views the planes' bytes: they must outlive it.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  PackedMatrix(const PackedMatrix&) = delete;
  PackedMatrix& operator=(const PackedMatrix&) = delete;

  uint64_t rows() const { return rows_; }
  uint64_t cols() const { return cols_; }
  // Canonical resolved recipe, as in EncodedMatrix.
  const std::string& recipe() const { return recipe_; }

  // What was done to W before it was stored, null for nothing: then DecodeTile gives W~, products
  // need their inputs transformed and their outputs restored, and Dequantize gives W.
  virtual const Incoherence* incoherence() const { return nullptr; }
  // Writes the stored values of rows [row, row + rows) x columns [col, col + cols) to
  // out[r * stride + c], c from 0. The reference for every kernel: exact codes to exact values.
  // Precondition: the tile lies inside the matrix.
  virtual void DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                          uint64_t stride) const = 0;
  virtual BitBreakdown bits() const = 0;

 protected:
  PackedMatrix(std::string recipe, uint64_t rows, uint64_t cols)
      : recipe_(std::move(recipe)), rows_(rows), cols_(cols) {}

 private:
  std::string recipe_;
  uint64_t rows_;
  uint64_t cols_;
};

// The values of the whole matrix W, row-major [rows, cols], incoherence processing undone.
std::vector<float> Dequantize(const PackedMatrix& matrix, ThreadTeam& team);

// A recipe bound to its codec: every option checked.
class Codec {
 public:
  virtual ~Codec() = default;

  // The options in canonical spelling, defaults filled in; "auto" choices stay "auto".
  virtual std::string recipe() const = 0;

  // Whether incoherence processing transforms the outputs: then single rows cannot be decoded, and
  // an embedding cannot be stored so.
  virtual bool transforms_outputs() const { return false; }

  // The bytes depend on the input alone, not on the team's size or the machine's SIMD target.
  // INVALID_ARGUMENT for NaN or infinite weights (row and column are named) and for sizes that do
  // not fit; TrellisSearch::Run's errors.
  virtual absl::StatusOr<EncodedMatrix> Encode(const EncodeInput& input,
                                               ThreadTeam& team) const = 0;
};

// One line of documentation per codec and option, for ListCodecs-like displays and --help.
struct CodecInfo {
  std::string name;
  std::string summary;
  std::vector<std::pair<std::string, std::string>>
      options;  // key, description with range and default
};
absl::Span<const CodecInfo> RegisteredCodecs();

// INVALID_ARGUMENT naming the codec, key or value that is wrong.
absl::StatusOr<std::unique_ptr<Codec>> CreateCodec(absl::string_view recipe);

// Opens a stored matrix for decoding. Checks everything it will rely on (planes present, no others,
// types, shapes, sizes, every gap inside its row, finite scales): INVALID_ARGUMENT for a recipe or
// shape that is wrong, DATA_LOSS for planes that contradict it.
absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenMatrix(absl::string_view resolved_recipe,
                                                         uint64_t rows, uint64_t cols,
                                                         absl::Span<const PlaneView> planes);

}  // namespace quantloom
