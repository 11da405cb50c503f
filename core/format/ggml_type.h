// The block formats that GGUF tensors are stored in, and their values as floats.
//
// A block holds `block_size` consecutive values of a row. Layouts (ggml's, all little-endian):
//   Q4_0  f16 d; 16 bytes of nibbles             value = d * (q - 8)
//   Q4_1  f16 d, f16 m; 16 bytes of nibbles      value = d * q + m
//   Q5_0  f16 d; u32 fifth bits; 16 bytes        value = d * (q - 16)
//   Q5_1  f16 d, f16 m; u32 fifth bits; 16 bytes value = d * q + m
//   Q8_0  f16 d; 32 signed bytes                 value = d * q
// Byte j of the nibbles holds value j in its low and value j + 16 in its high half; bit j of the
// fifth bits belongs to value j.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantloom {

// Numbered as in the file.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kBF16 = 30,
};

struct GgmlTypeInfo {
  GgmlType type;
  absl::string_view name;
  uint32_t block_size;   // values per block
  uint32_t block_bytes;  // bytes per block
};

// INVALID_ARGUMENT naming the type for one that is known but not supported, or unknown.
absl::StatusOr<GgmlTypeInfo> FindGgmlType(uint32_t code);

// Values of whole blocks. Preconditions: `blocks` holds out.size() / block_size blocks of `type`,
// and block_size divides out.size().
void DequantizeGgml(GgmlType type, absl::Span<const uint8_t> blocks, absl::Span<float> out);

}  // namespace quantloom
