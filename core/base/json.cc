#include "core/base/json.h"

#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

// The deepest nesting of brackets outside strings; what is malformed is the parser's to report.
int NestingDepth(absl::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

template <typename T>
constexpr absl::string_view ExpectedName() {
  if constexpr (std::is_same_v<T, uint64_t>) return "a non-negative integer";
  if constexpr (std::is_same_v<T, int64_t>) return "an integer";
  if constexpr (std::is_same_v<T, double>) return "a number";
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  return "a string";
}

template <typename T>
bool HasType(const nlohmann::json& value) {
  if constexpr (std::is_same_v<T, uint64_t>) return value.is_number_unsigned();
  if constexpr (std::is_same_v<T, int64_t>) {
    return value.is_number_unsigned() ? value.get<uint64_t>() <= uint64_t{INT64_MAX}
                                      : value.is_number_integer();
  }
  if constexpr (std::is_same_v<T, double>) return value.is_number();
  if constexpr (std::is_same_v<T, bool>) return value.is_boolean();
  return value.is_string();
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text) {
  if (NestingDepth(text) > kMaxJsonDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON nested deeper than ", kMaxJsonDepth, " levels"));
  }
  nlohmann::json value =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError("malformed JSON");
  return value;
}

absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text) {
  QL_ASSIGN_OR_RETURN(nlohmann::json value, ParseJson(text));
  if (!value.is_object()) return absl::InvalidArgumentError("the JSON document is not an object");
  return value;
}

const nlohmann::json* FindJson(const nlohmann::json& object, absl::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(std::string(key));
  return it == object.end() ? nullptr : &*it;
}

template <typename T>
absl::StatusOr<T> JsonField(const nlohmann::json& object, absl::string_view key) {
  const nlohmann::json* value = FindJson(object, key);
  if (value == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("field '", key, "' is missing"));
  }
  if (!HasType<T>(*value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("field '", key, "' is not ", ExpectedName<T>(), " but ", value->type_name()));
  }
  return value->get<T>();
}

template <typename T>
absl::StatusOr<T> JsonFieldOr(const nlohmann::json& object, absl::string_view key, T fallback) {
  const nlohmann::json* value = FindJson(object, key);
  if (value == nullptr || value->is_null()) return fallback;
  return JsonField<T>(object, key);
}

std::string DumpJson(const nlohmann::json& value, int indent) {
  return value.dump(indent, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

template absl::StatusOr<uint64_t> JsonField(const nlohmann::json&, absl::string_view);
template absl::StatusOr<int64_t> JsonField(const nlohmann::json&, absl::string_view);
template absl::StatusOr<double> JsonField(const nlohmann::json&, absl::string_view);
template absl::StatusOr<bool> JsonField(const nlohmann::json&, absl::string_view);
template absl::StatusOr<std::string> JsonField(const nlohmann::json&, absl::string_view);
template absl::StatusOr<uint64_t> JsonFieldOr(const nlohmann::json&, absl::string_view, uint64_t);
template absl::StatusOr<int64_t> JsonFieldOr(const nlohmann::json&, absl::string_view, int64_t);
template absl::StatusOr<double> JsonFieldOr(const nlohmann::json&, absl::string_view, double);
template absl::StatusOr<bool> JsonFieldOr(const nlohmann::json&, absl::string_view, bool);
template absl::StatusOr<std::string> JsonFieldOr(const nlohmann::json&, absl::string_view,
                                                 std::string);

}  // namespace quantloom
