#include "core/base/dtype.h"

#include <utility>

namespace quantloom {
namespace {

constexpr std::pair<DType, absl::string_view> kNames[] = {
    {DType::kU8, "U8"},     {DType::kI8, "I8"},   {DType::kU16, "U16"}, {DType::kI16, "I16"},
    {DType::kU32, "U32"},   {DType::kI32, "I32"}, {DType::kF16, "F16"}, {DType::kBF16, "BF16"},
    {DType::kF32, "F32"},   {DType::kF64, "F64"}, {DType::kI64, "I64"}, {DType::kU64, "U64"},
    {DType::kBool, "BOOL"},
};

}  // namespace

absl::string_view DTypeName(DType dtype) {
  for (const auto& [type, name] : kNames) {
    if (type == dtype) return name;
  }
  return "?";
}

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (const auto& [type, text] : kNames) {
    if (text == name) return type;
  }
  return std::nullopt;
}

}  // namespace quantloom
