#include "core/format/ggml_type.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"

namespace quantloom {
namespace {

constexpr GgmlTypeInfo kTypes[] = {
    {GgmlType::kF32, "F32", 1, 4},     {GgmlType::kF16, "F16", 1, 2},
    {GgmlType::kQ4_0, "Q4_0", 32, 18}, {GgmlType::kQ4_1, "Q4_1", 32, 20},
    {GgmlType::kQ5_0, "Q5_0", 32, 22}, {GgmlType::kQ5_1, "Q5_1", 32, 24},
    {GgmlType::kQ8_0, "Q8_0", 32, 34}, {GgmlType::kBF16, "BF16", 1, 2},
};

constexpr std::pair<uint32_t, absl::string_view> kUnsupported[] = {
    {9, "Q8_1"},   {10, "Q2_K"},    {11, "Q3_K"},   {12, "Q4_K"},    {13, "Q5_K"},  {14, "Q6_K"},
    {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"},
    {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},   {26, "I32"},
    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"},
};

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

float LoadHalf(const uint8_t* bytes) { return HalfToFloat(Load<uint16_t>(bytes)); }

constexpr int kHalfBlock = 16;  // values whose codes share the low (or the high) nibbles

void DequantizeQ4(const uint8_t* nibbles, float scale, int offset, float minimum, float* out) {
  for (int j = 0; j < kHalfBlock; ++j) {
    out[j] = scale * static_cast<float>((nibbles[j] & 0xF) - offset) + minimum;
    out[j + kHalfBlock] = scale * static_cast<float>((nibbles[j] >> 4) - offset) + minimum;
  }
}

void DequantizeQ5(const uint8_t* nibbles, uint32_t fifth, float scale, int offset, float minimum,
                  float* out) {
  for (int j = 0; j < kHalfBlock; ++j) {
    const int low = (nibbles[j] & 0xF) | static_cast<int>((fifth >> j) & 1) << 4;
    const int high = (nibbles[j] >> 4) | static_cast<int>((fifth >> (j + kHalfBlock)) & 1) << 4;
    out[j] = scale * static_cast<float>(low - offset) + minimum;
    out[j + kHalfBlock] = scale * static_cast<float>(high - offset) + minimum;
  }
}

void DequantizeBlock(GgmlType type, const uint8_t* block, float* out) {
  // Adding -0 keeps every value as it is, the sign of zero included.
  constexpr float kNoMinimum = -0.0f;
  switch (type) {
    case GgmlType::kF32:
      *out = Load<float>(block);
      return;
    case GgmlType::kF16:
      *out = LoadHalf(block);
      return;
    case GgmlType::kBF16:
      *out = BFloat16ToFloat(Load<uint16_t>(block));
      return;
    case GgmlType::kQ4_0:
      DequantizeQ4(block + 2, LoadHalf(block), 8, kNoMinimum, out);
      return;
    case GgmlType::kQ4_1:
      DequantizeQ4(block + 4, LoadHalf(block), 0, LoadHalf(block + 2), out);
      return;
    case GgmlType::kQ5_0:
      DequantizeQ5(block + 6, Load<uint32_t>(block + 2), LoadHalf(block), 16, kNoMinimum, out);
      return;
    case GgmlType::kQ5_1:
      DequantizeQ5(block + 8, Load<uint32_t>(block + 4), LoadHalf(block), 0, LoadHalf(block + 2),
                   out);
      return;
    case GgmlType::kQ8_0: {
      const float scale = LoadHalf(block);
      for (int j = 0; j < 2 * kHalfBlock; ++j) {
        out[j] = scale * static_cast<float>(static_cast<int8_t>(block[2 + j]));
      }
      return;
    }
  }
}

}  // namespace

absl::StatusOr<GgmlTypeInfo> FindGgmlType(uint32_t code) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == code) return info;
  }
  for (const auto& [unsupported, name] : kUnsupported) {
    if (unsupported == code) {
      return absl::InvalidArgumentError(absl::StrCat("unsupported type ", name));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown type ", code));
}

void DequantizeGgml(GgmlType type, absl::Span<const uint8_t> blocks, absl::Span<float> out) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (info.type != type) continue;
    const size_t count = out.size() / info.block_size;
    for (size_t b = 0; b < count; ++b) {
      DequantizeBlock(type, blocks.data() + b * info.block_bytes, out.data() + b * info.block_size);
    }
  }
}

}  // namespace quantloom
