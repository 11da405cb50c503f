#include "bench/device_matrices.h"

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status.h"
#include "core/codec/gap_code.h"
#include "core/codec/trellis_code.h"
#include "kernels/cuda/matrix_image.h"

namespace quantloom {
namespace {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kSymbolBits = 6;
constexpr double kOutliers = 0.05;
// Segments of 16 rows whose outliers are drawn; other segments have the same.
constexpr uint32_t kIndexSegments = 256;

// Which bits of random words stay.
constexpr uint32_t kAll = 0xFFFFFFFF;
constexpr uint32_t kFiniteHalves = 0xBFFFBFFF;  // fp16 without the exponent's top bit: below 2
constexpr uint32_t kFiniteHighBytes = 0xBFBFBFBF;
constexpr uint32_t kSelectors = 0x77777777;

// --- What is repeated.

enum Pattern : uint8_t { kRandom, kScale, kHyb, kSymbols, kFirstSymbols, kCounts };

// The outlier index of kIndexSegments segments (icquant_image.h). The next ones' symbols begin at a
// word.
struct OutlierIndex {
  std::vector<uint32_t> symbols;
  std::vector<uint32_t> first_symbol;  // of a segment
  std::vector<uint32_t> counts;        // bytes: [segments, 16 rows]
  uint32_t all_symbols = 0;            // a whole number of words

  OutlierIndex() {
    std::mt19937_64 random(1);
    std::vector<uint8_t> bytes;
    std::vector<uint32_t> columns;
    counts.resize(size_t{kIndexSegments} * cuda::kTileRows / 4);
    for (uint32_t i = 0; i < kIndexSegments; ++i) {
      first_symbol.push_back(all_symbols);
      for (uint32_t row = 0; row < cuda::kTileRows; ++row) {
        columns.clear();
        for (uint32_t c = 0; c < cuda::kSegmentColumns; ++c) {
          if (std::generate_canonical<double, 32>(random) < kOutliers) columns.push_back(c);
        }
        const uint32_t count = SegmentSymbols(columns, kSymbolBits);
        bytes.resize(((all_symbols + count) * kSymbolBits + 7) / 8);
        WriteSegment(columns, kSymbolBits, all_symbols, bytes.data());
        counts[(i * cuda::kTileRows + row) / 4] |= count << (row % 4 * 8);
        all_symbols += count;
      }
    }
    constexpr uint32_t kWholeWords = 32 / 2;  // 6-bit symbols
    all_symbols = cuda::DivideUp(all_symbols, kWholeWords) * kWholeWords;
    symbols.resize(all_symbols * kSymbolBits / 32);
    for (size_t i = 0; i < bytes.size(); ++i) {
      symbols[i / 4] |= uint32_t{bytes[i]} << (i % 4 * 8);
    }
  }
};

const OutlierIndex& Outliers() {
  static const OutlierIndex index;
  return index;
}

absl::Span<const uint32_t> Words(Pattern pattern) {
  static const std::vector<uint32_t> random = [] {
    std::mt19937 source(1);
    std::vector<uint32_t> words((1 << 16) + 1);
    std::generate(words.begin(), words.end(), source);
    return words;
  }();
  static const uint32_t scale = std::bit_cast<uint32_t>(0.01f);
  switch (pattern) {
    case kRandom:
      return random;
    case kScale:
      return {&scale, 1};
    case kHyb:
      static_assert(sizeof(kHybTable[0]) == sizeof(uint32_t));
      return {reinterpret_cast<const uint32_t*>(kHybTable), std::size(kHybTable)};
    case kSymbols:
      return Outliers().symbols;
    case kFirstSymbols:
      return Outliers().first_symbol;
    case kCounts:
      return Outliers().counts;
  }
  return {};
}

// --- What a matrix is made of.

// An array of 32-bit words that repeats a pattern (kernels/cuda/probe.h).
struct Array {
  uint64_t offset;
  uint64_t words;
  Pattern pattern;
  uint32_t step;
  uint32_t mask;
};

// Lays out a form's arrays from `memory` on; views point there.
class Arrays {
 public:
  Arrays(uint32_t rows, uint32_t cols, uintptr_t memory)
      : rows_(rows), cols_(cols), memory_(memory) {}

  const std::vector<Array>& arrays() const { return arrays_; }
  uint64_t bytes() const { return bytes_; }

  cuda::MatrixView operator()(cuda::HalfMatrixView view) {
    Shape(view);
    view.fragments = Random(uint64_t{rows_} * cols_ / 2, kFiniteHalves);
    view.scales = Scales();
    return view;
  }
  cuda::MatrixView operator()(cuda::ByteMatrixView view) {
    Shape(view);
    view.fragments = Random(uint64_t{rows_} * cols_ / 4, kAll);
    view.scales = Scales();
    view.offsets = Scales();
    return view;
  }
  cuda::MatrixView operator()(cuda::IcquantView view) {
    Shape(view);
    view.segments = cols_ / cuda::kSegmentColumns;
    view.symbol_bits = kSymbolBits;
    const bool halves = view.level_bytes == 2;
    view.level_stride = cuda::CentroidWords(static_cast<int>(view.bits), true) * view.level_bytes;
    view.codes = Random(Lanes() * cuda::PanelWords(static_cast<int>(view.bits)), kAll);
    view.levels = Random(uint64_t{rows_} * view.level_stride, halves ? kFiniteHighBytes : kAll);
    view.scales = Scales();
    if (!halves) view.offsets = Scales();
    const uint64_t segments = uint64_t{rows_ / cuda::kTileRows} * view.segments;
    const OutlierIndex& index = Outliers();
    const uint64_t symbols = segments / kIndexSegments * index.all_symbols +
                             index.first_symbol[segments % kIndexSegments];
    constexpr uint64_t kRead = 2;  // words past the end that reads may touch
    view.symbols = Add((symbols * kSymbolBits + 31) / 32 + kRead, kSymbols, 0, kAll);
    view.first_symbol = Add(segments, kFirstSymbols, index.all_symbols, kAll);
    view.counts =
        reinterpret_cast<const uint8_t*>(Add(segments * cuda::kTileRows / 4, kCounts, 0, kAll));
    return view;
  }
  cuda::MatrixView operator()(cuda::TrellisView view) {
    Shape(view);
    view.codes = Random(Lanes() * view.half_bits, kAll);
    view.scales = Scales();
    if (view.code == TrellisCode::kHyb) view.table = Add(std::size(kHybTable), kHyb, 0, kAll);
    return view;
  }
  cuda::MatrixView operator()(cuda::E8pView view) {
    Shape(view);
    view.second_unit = 0.5f;
    view.codes = Random(Lanes() * cuda::E8pLaneWords(view.bits), kAll);
    view.scales = Scales();
    view.selectors = Random(256, kSelectors);
    view.one_bit = Random(512, kAll);
    return view;
  }

 private:
  template <typename View>
  void Shape(View& view) const {
    view.rows = rows_;
    view.panels = cols_ / cuda::kPanelColumns;
  }
  // Lanes of all tiles.
  uint64_t Lanes() const {
    return uint64_t{rows_ / cuda::kTileRows} * (cols_ / cuda::kPanelColumns) * kLanes;
  }
  const uint32_t* Add(uint64_t words, Pattern pattern, uint32_t step, uint32_t mask) {
    const uint64_t offset =
        (bytes_ + cuda::kImageAlignment - 1) / cuda::kImageAlignment * cuda::kImageAlignment;
    arrays_.push_back({offset, words, pattern, step, mask});
    bytes_ = offset + words * sizeof(uint32_t);
    return reinterpret_cast<const uint32_t*>(memory_ + offset);
  }
  const uint32_t* Random(uint64_t words, uint32_t mask) {
    return Add(words, kRandom, /*step=*/0x9E3779B9, mask);
  }
  const float* Scales() { return reinterpret_cast<const float*>(Add(rows_, kScale, 0, kAll)); }

  uint32_t rows_;
  uint32_t cols_;
  uintptr_t memory_;
  std::vector<Array> arrays_;
  uint64_t bytes_ = 0;
};

}  // namespace

std::vector<DeviceForm> DeviceForms() {
  std::vector<DeviceForm> forms = {{"fp16", cuda::HalfMatrixView(), false},
                                   {"int8", cuda::ByteMatrixView(), false}};
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    forms.push_back({absl::StrCat("icquant-", bits), cuda::IcquantView{.bits = bits}, false});
    forms.push_back({absl::StrCat("icquant-fp16-", bits),
                     cuda::IcquantView{.level_bytes = 2, .bits = bits}, false});
  }
  const std::pair<const char*, TrellisCode> codes[] = {{"mul1", TrellisCode::kMul1},
                                                       {"1mad", TrellisCode::k1Mad},
                                                       {"3inst", TrellisCode::k3Inst},
                                                       {"hyb", TrellisCode::kHyb}};
  for (const auto& [name, code] : codes) {
    for (uint32_t half_bits = 2; half_bits <= 8; ++half_bits) {
      forms.push_back({absl::StrCat(name, "-", half_bits / 2.0),
                       cuda::TrellisView{.half_bits = half_bits, .code = code}, true});
    }
  }
  for (uint32_t bits = 2; bits <= 4; ++bits) {
    forms.push_back({absl::StrCat("quip-", bits), cuda::E8pView{.bits = bits}, true});
  }
  return forms;
}

absl::StatusOr<std::unique_ptr<RandomMatrices>> RandomMatrices::Create(CudaContext& context) {
  std::unique_ptr<RandomMatrices> matrices(new RandomMatrices(context));
  for (size_t i = 0; i < kPatterns; ++i) {
    const absl::Span<const uint32_t> words = Words(static_cast<Pattern>(i));
    QL_ASSIGN_OR_RETURN(matrices->patterns_[i],
                        context.Upload({reinterpret_cast<const uint8_t*>(words.data()),
                                        words.size() * sizeof(uint32_t)}));
  }
  return matrices;
}

uint64_t RandomMatrices::Bytes(const DeviceForm& form, uint32_t rows, uint32_t cols) {
  Arrays arrays(rows, cols, 0);
  std::visit(arrays, form.view);
  return arrays.bytes();
}

absl::StatusOr<CudaMatrix::Resident> RandomMatrices::Make(const DeviceForm& form, uint32_t rows,
                                                          uint32_t cols) const {
  CudaMatrix::Resident matrix{.rows = rows, .cols = cols, .bytes = Bytes(form, rows, cols)};
  QL_ASSIGN_OR_RETURN(matrix.memory, context_.Allocate(matrix.bytes));
  Arrays arrays(rows, cols, reinterpret_cast<uintptr_t>(matrix.memory.as<uint8_t>()));
  matrix.view = std::visit(arrays, form.view);
  for (const Array& array : arrays.arrays()) {
    const char* const error = context_.kernels().repeat_pattern(
        patterns_[array.pattern].as<uint32_t>(), static_cast<uint32_t>(Words(array.pattern).size()),
        array.step, array.mask,
        reinterpret_cast<uint32_t*>(matrix.memory.as<uint8_t>() + array.offset), array.words,
        context_.stream());
    if (error != nullptr) return absl::InternalError(error);
  }
  return matrix;
}

}  // namespace quantloom
