// JSON from untrusted files: parsing that never throws, and members read with their type checked.
//
//   QL_ASSIGN_OR_RETURN(nlohmann::json root, ParseJson(text));
//   QL_ASSIGN_OR_RETURN(uint64_t layers, JsonField<uint64_t>(root, "num_hidden_layers"));
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// Nesting beyond this is refused: printing and destroying a document recurse.
inline constexpr int kMaxJsonDepth = 64;

// INVALID_ARGUMENT for malformed text, invalid UTF-8, or nesting deeper than kMaxJsonDepth.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text);

// As ParseJson, and the document must be an object.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text);

// Member `key` of `object` as T: uint64_t, int64_t, double (any number), bool or std::string.
// INVALID_ARGUMENT naming the field when it is missing or of another type; so is an `object` that
// is none.
template <typename T>
absl::StatusOr<T> JsonField(const nlohmann::json& object, absl::string_view key);

// As JsonField, with `fallback` for a member that is missing or null.
template <typename T>
absl::StatusOr<T> JsonFieldOr(const nlohmann::json& object, absl::string_view key, T fallback);

// Member `key`, or null when `object` is no object or has no such member.
const nlohmann::json* FindJson(const nlohmann::json& object, absl::string_view key);

// Compact text; bytes that are not UTF-8 become U+FFFD. `indent` as in nlohmann::json::dump.
std::string DumpJson(const nlohmann::json& value, int indent = -1);

}  // namespace quantloom
