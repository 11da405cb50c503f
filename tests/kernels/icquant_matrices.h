// Random stored ICQuant matrices, written from the format's description: what kernels are tested
// on without an encoder's preferences.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/codec/code_packing.h"
#include "core/codec/gap_code.h"
#include "core/codec/icquant_matrix.h"
#include "gtest/gtest.h"

namespace quantloom::cpu {

struct IcquantShape {
  int bits;
  IcquantCodebook codebook;
  bool outliers;
  bool offset;  // int8 codebooks only
  uint64_t rows, cols;
};

inline std::string Describe(const IcquantShape& shape) {
  static constexpr const char* kForms[] = {"auto", "fp16", "int8", "tensor", "range"};
  return absl::StrCat(kForms[static_cast<int>(shape.codebook)], " bits ", shape.bits, " outliers ",
                      shape.outliers, " offset ", shape.offset, " [", shape.rows, ", ", shape.cols,
                      "]");
}

// Owns the planes that its matrix views.
class RandomIcquant {
 public:
  RandomIcquant(const IcquantShape& shape, uint32_t seed) : shape_(shape), random_(seed) {
    if (RowOutliers(kOutliers, shape.cols) == 0) shape_.outliers = false;
    AddCodes();
    if (shape_.outliers) AddIndex();
    AddLevels();
  }

  // A new view of the planes.
  std::unique_ptr<IcquantMatrix> Open() const {
    IcquantOptions options;
    options.bits = shape_.bits;
    options.outliers = shape_.outliers ? kOutliers : 0;
    options.codebook = shape_.codebook;
    const bool rtn = shape_.codebook == IcquantCodebook::kRange || shape_.bits == 8;
    options.inner = rtn ? IcquantInner::kRtn : IcquantInner::kKmeans;
    options.offset = shape_.offset ? IcquantOffset::kRow : IcquantOffset::kNone;
    options.index_bits = shape_.outliers ? kIndexBits : 0;
    std::vector<PlaneView> views;
    for (const Plane& plane : planes_) views.push_back(plane.view());
    auto matrix = IcquantMatrix::Open(options, shape_.rows, shape_.cols, views);
    EXPECT_TRUE(matrix.ok()) << Describe(shape_) << ": " << matrix.status();
    return std::move(matrix).value();
  }

 private:
  static constexpr double kOutliers = 0.08;
  static constexpr int kIndexBits = 5;

  uint32_t Below(uint32_t n) { return std::uniform_int_distribution<uint32_t>(0, n - 1)(random_); }
  float Uniform(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random_);
  }

  void Add(const std::string& name, DType dtype, std::vector<uint8_t> bytes) {
    bytes.resize((bytes.size() + 63) / 64 * 64);
    const uint64_t elements = bytes.size() / DTypeSize(dtype);
    planes_.push_back({name, dtype, {elements}, std::move(bytes)});
  }
  void AddFloats16(const std::string& name, DType dtype, const std::vector<float>& values) {
    std::vector<uint8_t> bytes;
    for (const float value : values) {
      const uint16_t bits = dtype == DType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
      bytes.push_back(static_cast<uint8_t>(bits));
      bytes.push_back(static_cast<uint8_t>(bits >> 8));
    }
    Add(name, dtype, std::move(bytes));
  }

  void AddCodes() {
    const uint64_t row_bytes = CodeRowBytes(shape_.bits, shape_.cols);
    std::vector<uint8_t> bytes(shape_.rows * row_bytes), codes(shape_.cols);
    for (uint64_t row = 0; row < shape_.rows; ++row) {
      for (uint8_t& code : codes) {
        code = static_cast<uint8_t>(Below(1u << shape_.bits));
        if (IntegerEight() && code == 0x80) code = 0x81;  // -128 is not used
      }
      PackCodes(codes.data(), shape_.bits, shape_.cols, bytes.data() + row * row_bytes);
    }
    Add("codes", DType::kU8, std::move(bytes));
  }

  void AddIndex() {
    const uint64_t segments = (shape_.cols + 255) / 256;
    const uint64_t per_row = RowOutliers(kOutliers, shape_.cols);
    std::vector<uint8_t> counts, index(shape_.rows * (shape_.cols + 8));
    std::vector<uint32_t> columns(shape_.cols), base;
    uint64_t symbols = 0;
    for (uint64_t row = 0; row < shape_.rows; ++row) {
      if (row % OutlierIndex::kBaseRows == 0) base.push_back(static_cast<uint32_t>(symbols));
      for (uint64_t c = 0; c < shape_.cols; ++c) columns[c] = static_cast<uint32_t>(c);
      std::shuffle(columns.begin(), columns.end(), random_);
      std::sort(columns.begin(), columns.begin() + static_cast<int64_t>(per_row));
      for (uint64_t segment = 0; segment < segments; ++segment) {
        std::vector<uint32_t> inside;
        for (uint64_t i = 0; i < per_row; ++i) {
          if (columns[i] / 256 == segment) inside.push_back(columns[i] % 256);
        }
        WriteSegment(inside, kIndexBits, symbols, index.data());
        counts.push_back(static_cast<uint8_t>(SegmentSymbols(inside, kIndexBits)));
        symbols += counts.back();
      }
    }
    index.resize((symbols * kIndexBits + 7) / 8);
    std::vector<uint8_t> base_bytes(base.size() * 4);
    std::memcpy(base_bytes.data(), base.data(), base_bytes.size());
    Add("index", DType::kU8, std::move(index));
    Add("index_counts", DType::kU8, std::move(counts));
    Add("index_base", DType::kU32, std::move(base_bytes));
  }

  void AddLevels() {
    const uint64_t levels = (shape_.outliers ? 2u : 1u) << shape_.bits;
    std::vector<float> values;
    switch (shape_.codebook) {
      case IcquantCodebook::kFp16:
        for (uint64_t i = 0; i < shape_.rows * levels; ++i) values.push_back(Uniform(-0.2f, 0.2f));
        return AddFloats16("codebook", DType::kF16, values);
      case IcquantCodebook::kRange:
        for (uint64_t i = 0; i < shape_.rows * (shape_.outliers ? 3 : 1); ++i) {
          values.push_back(Uniform(-0.2f, 0.1f));
          values.push_back(Uniform(0.0001f, 0.01f));
        }
        return AddFloats16("range", DType::kF16, values);
      default:
        break;
    }
    if (shape_.bits != 8) {
      const bool shared = shape_.codebook == IcquantCodebook::kTensor;
      std::vector<uint8_t> centroids((shared ? 1 : shape_.rows) * levels);
      for (uint8_t& q : centroids) q = static_cast<uint8_t>(static_cast<int>(Below(255)) - 127);
      Add("codebook", DType::kI8, std::move(centroids));
    }
    for (uint64_t i = 0; i < shape_.rows; ++i) values.push_back(Uniform(0.0f, 0.003f));
    AddFloats16("scale", DType::kBF16, values);
    if (!shape_.offset) return;
    for (float& value : values) value = Uniform(-0.1f, 0.1f);
    AddFloats16("offset", DType::kBF16, values);
  }

  bool IntegerEight() const {
    return shape_.bits == 8 && shape_.codebook == IcquantCodebook::kInt8;
  }

  IcquantShape shape_;
  std::mt19937 random_;
  std::vector<Plane> planes_;
};

}  // namespace quantloom::cpu
