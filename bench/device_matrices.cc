#include "bench/device_matrices.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/codec/gap_code.h"
#include "core/codec/trellis_code.h"
#include "kernels/cuda/image_layout.h"

namespace quantloom {
namespace {

using cuda::ImageLayout;
using cuda::MatrixImage;

constexpr uint32_t kLanes = 32;
constexpr uint32_t kSymbolBits = 6;
constexpr double kOutliers = 0.05;

// Words of random bits of which those in `mask` are kept.
void Fill(uint32_t* words, size_t count, uint32_t mask, std::mt19937_64& random) {
  for (size_t i = 0; i < count; ++i) words[i] = static_cast<uint32_t>(random()) & mask;
}
// fp16 without the exponent's top bit: below 2.
constexpr uint32_t kFiniteHalves = 0xBFFFBFFF;
constexpr uint32_t kAll = 0xFFFFFFFF;

// The outlier index of a whole matrix (icquant_image.h).
struct OutlierIndex {
  std::vector<uint8_t> symbols;
  std::vector<uint32_t> first_symbol;
  std::vector<uint8_t> counts;

  OutlierIndex(uint32_t row_tiles, uint32_t segments, std::mt19937_64& random) {
    constexpr auto kThreshold = static_cast<uint32_t>(kOutliers * 65536);
    uint64_t written = 0;
    std::vector<uint32_t> columns;
    for (uint64_t i = 0; i < uint64_t{row_tiles} * segments; ++i) {
      first_symbol.push_back(static_cast<uint32_t>(written));
      for (uint32_t row = 0; row < cuda::kTileRows; ++row) {
        columns.clear();
        for (uint32_t c = 0; c < cuda::kSegmentColumns; c += 4) {
          const uint64_t bits = random();
          for (uint32_t j = 0; j < 4; ++j) {
            if ((bits >> (16 * j) & 0xFFFF) < kThreshold) columns.push_back(c + j);
          }
        }
        counts.push_back(static_cast<uint8_t>(SegmentSymbols(columns, kSymbolBits)));
        symbols.resize(((written + counts.back()) * kSymbolBits + 7) / 8);
        WriteSegment(columns, kSymbolBits, written, symbols.data());
        written += counts.back();
      }
    }
  }
};

class ImageFiller {
 public:
  ImageFiller(uint32_t rows, uint32_t cols, uint32_t seed)
      : rows_(rows), cols_(cols), random_(seed), image_{.rows = rows, .cols = cols} {}

  MatrixImage operator()(cuda::HalfMatrixView view) {
    Shape(view);
    const auto fragments = layout_.Add<uint32_t>(size_t{rows_} * cols_ / 2);
    const auto scales = layout_.Add<float>(rows_);
    Allocate();
    Fill(fragments.In(image_), size_t{rows_} * cols_ / 2, kFiniteHalves, random_);
    view.fragments = fragments.In(image_);
    view.scales = Scales(scales);
    return Take(view);
  }
  MatrixImage operator()(cuda::ByteMatrixView view) {
    Shape(view);
    const auto fragments = layout_.Add<uint32_t>(size_t{rows_} * cols_ / 4);
    const auto scales = layout_.Add<float>(rows_);
    const auto offsets = layout_.Add<float>(rows_);
    Allocate();
    Fill(fragments.In(image_), size_t{rows_} * cols_ / 4, kAll, random_);
    view.fragments = fragments.In(image_);
    view.scales = Scales(scales);
    view.offsets = Scales(offsets);
    return Take(view);
  }
  MatrixImage operator()(cuda::IcquantView view) {
    Shape(view);
    view.segments = cuda::DivideUp(cols_, cuda::kSegmentColumns);
    view.symbol_bits = kSymbolBits;
    const bool halves = view.level_bytes == 2;
    const uint32_t words = cuda::CentroidWords(static_cast<int>(view.bits), true);
    view.level_stride = words * view.level_bytes;
    const OutlierIndex index(rows_ / cuda::kTileRows, view.segments, random_);
    const size_t code_words = Lanes() * cuda::PanelWords(static_cast<int>(view.bits));
    const auto codes = layout_.Add<uint32_t>(code_words);
    const auto levels = layout_.Add<uint32_t>(size_t{rows_} * view.level_stride);
    const auto scales = layout_.Add<float>(rows_);
    const auto offsets = layout_.Add<float>(halves ? 0 : rows_);
    const auto symbols = layout_.Add<uint32_t>(index.symbols.size() / 4 + 2);
    const auto first_symbol = layout_.Add<uint32_t>(index.first_symbol.size());
    const auto counts = layout_.Add<uint8_t>(index.counts.size());
    Allocate();
    Fill(codes.In(image_), code_words, kAll, random_);
    // Of fp16 levels the high bytes lack the exponent's top bit.
    Fill(levels.In(image_), size_t{rows_} * view.level_stride, halves ? 0xBFBFBFBF : kAll, random_);
    std::copy(index.symbols.begin(), index.symbols.end(),
              reinterpret_cast<uint8_t*>(symbols.In(image_)));
    std::copy(index.first_symbol.begin(), index.first_symbol.end(), first_symbol.In(image_));
    std::copy(index.counts.begin(), index.counts.end(), counts.In(image_));
    view.codes = codes.In(image_);
    view.levels = levels.In(image_);
    view.scales = Scales(scales);
    if (!halves) view.offsets = Scales(offsets);
    view.symbols = symbols.In(image_);
    view.first_symbol = first_symbol.In(image_);
    view.counts = counts.In(image_);
    return Take(view);
  }
  MatrixImage operator()(cuda::TrellisView view) {
    Shape(view);
    const bool hyb = view.code == TrellisCode::kHyb;
    const size_t code_words = Lanes() * view.half_bits;
    const auto codes = layout_.Add<uint32_t>(code_words);
    const auto scales = layout_.Add<float>(rows_);
    const auto table = layout_.Add<uint32_t>(hyb ? std::size(kHybTable) : 0);
    Allocate();
    Fill(codes.In(image_), code_words, kAll, random_);
    view.codes = codes.In(image_);
    view.scales = Scales(scales);
    if (hyb) {
      std::memcpy(table.In(image_), kHybTable, sizeof(kHybTable));
      view.table = table.In(image_);
    }
    return Take(view);
  }
  MatrixImage operator()(cuda::E8pView view) {
    Shape(view);
    view.second_unit = 0.5f;
    const size_t code_words = Lanes() * cuda::E8pLaneWords(view.bits);
    const auto codes = layout_.Add<uint32_t>(code_words);
    const auto scales = layout_.Add<float>(rows_);
    const auto selectors = layout_.Add<uint32_t>(256);
    const auto one_bit = layout_.Add<uint32_t>(512);
    Allocate();
    Fill(codes.In(image_), code_words, kAll, random_);
    Fill(selectors.In(image_), 256, 0x77777777, random_);
    Fill(one_bit.In(image_), 512, kAll, random_);
    view.codes = codes.In(image_);
    view.scales = Scales(scales);
    view.selectors = selectors.In(image_);
    view.one_bit = one_bit.In(image_);
    return Take(view);
  }

 private:
  template <typename View>
  void Shape(View& view) const {
    view.rows = rows_;
    view.panels = cols_ / cuda::kPanelColumns;
  }
  // Lanes of all tiles.
  size_t Lanes() const {
    return size_t{rows_ / cuda::kTileRows} * (cols_ / cuda::kPanelColumns) * kLanes;
  }
  void Allocate() { image_.bytes = layout_.Allocate(); }
  float* Scales(const ImageLayout::Array<float>& scales) {
    std::fill_n(scales.In(image_), rows_, 0.01f);
    return scales.In(image_);
  }
  MatrixImage Take(const cuda::MatrixView& view) {
    image_.view = view;
    return std::move(image_);
  }

  uint32_t rows_;
  uint32_t cols_;
  std::mt19937_64 random_;
  ImageLayout layout_;
  MatrixImage image_;
};

}  // namespace

std::vector<DeviceForm> DeviceForms() {
  std::vector<DeviceForm> forms = {{"fp16", cuda::HalfMatrixView()},
                                   {"int8", cuda::ByteMatrixView()}};
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    forms.push_back({absl::StrCat("icquant-", bits), cuda::IcquantView{.bits = bits}});
    forms.push_back(
        {absl::StrCat("icquant-fp16-", bits), cuda::IcquantView{.level_bytes = 2, .bits = bits}});
  }
  const std::pair<const char*, TrellisCode> codes[] = {{"mul1", TrellisCode::kMul1},
                                                       {"1mad", TrellisCode::k1Mad},
                                                       {"3inst", TrellisCode::k3Inst},
                                                       {"hyb", TrellisCode::kHyb}};
  for (const auto& [name, code] : codes) {
    for (uint32_t half_bits = 2; half_bits <= 8; ++half_bits) {
      forms.push_back({absl::StrCat(name, "-", half_bits / 2.0),
                       cuda::TrellisView{.half_bits = half_bits, .code = code}});
    }
  }
  for (uint32_t bits = 2; bits <= 4; ++bits) {
    forms.push_back({absl::StrCat("quip-", bits), cuda::E8pView{.bits = bits}});
  }
  return forms;
}

cuda::MatrixImage RandomImage(const DeviceForm& form, uint32_t rows, uint32_t cols, uint32_t seed) {
  return std::visit([&](const auto& view) { return ImageFiller(rows, cols, seed)(view); },
                    form.view);
}

}  // namespace quantloom
