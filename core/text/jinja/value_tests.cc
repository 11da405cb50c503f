// Tests: `value is name(arguments)`.
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/builtins.h"

namespace quantloom::jinja {
namespace {

using Test = absl::StatusOr<bool> (*)(const Value&, const Arguments&, Budget&);

// A test without arguments that looks at the kind of value alone.
template <bool (*kPredicate)(const Value&)>
absl::StatusOr<bool> Kind(const Value& value, const Arguments& arguments, Budget&) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  return kPredicate(value);
}

absl::StatusOr<Value> OnlyArgument(const Arguments& arguments) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"other"}));
  if (!bound[0].has_value()) return absl::InvalidArgumentError("needs an argument");
  return *bound[0];
}

absl::StatusOr<bool> IsEqual(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Value other, OnlyArgument(arguments));
  return Equal(value, other, budget);
}

absl::StatusOr<bool> IsNotEqual(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const bool equal, IsEqual(value, arguments, budget));
  return !equal;
}

template <bool (*kAccepts)(int order)>
absl::StatusOr<bool> IsOrdered(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Value other, OnlyArgument(arguments));
  QL_ASSIGN_OR_RETURN(const int order, Compare(value, other, budget));
  return kAccepts(order);
}

bool Less(int order) { return order < 0; }
bool LessOrEqual(int order) { return order <= 0; }
bool Greater(int order) { return order > 0; }
bool GreaterOrEqual(int order) { return order >= 0; }

absl::StatusOr<bool> IsIn(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Value other, OnlyArgument(arguments));
  return Contains(other, value, budget);
}

absl::StatusOr<bool> IsSameAs(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Value other, OnlyArgument(arguments));
  // Identity of equal numbers and strings is an accident of Python's; of these it is not.
  if (value.type_name() != other.type_name()) return false;
  return Equal(value, other, budget);
}

absl::StatusOr<int64_t> IntegerOf(const Value& value) {
  if (value.is_int() || value.is_bool()) return value.integer();
  return absl::InvalidArgumentError(absl::StrCat("needs an integer, not a ", value.type_name()));
}

template <int kRemainder>
absl::StatusOr<bool> HasRemainder(const Value& value, const Arguments& arguments, Budget&) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const int64_t number, IntegerOf(value));
  return (number & 1) == kRemainder;
}

absl::StatusOr<bool> IsDivisibleBy(const Value& value, const Arguments& arguments, Budget&) {
  QL_ASSIGN_OR_RETURN(const Value other, OnlyArgument(arguments));
  QL_ASSIGN_OR_RETURN(const int64_t number, IntegerOf(value));
  QL_ASSIGN_OR_RETURN(const int64_t divisor, IntegerOf(other));
  if (divisor == 0) return absl::InvalidArgumentError("division by zero");
  return divisor == -1 || number % divisor == 0;
}

// str.isupper / str.islower: some letter, and all letters of that case.
template <bool kUpper>
absl::StatusOr<bool> HasCase(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const std::string text, ToText(value, budget));
  bool some = false;
  for (const char c : text) {
    if ((static_cast<uint8_t>(c) & 0x80) != 0) {
      return absl::InvalidArgumentError("the case of text beyond ASCII is not supported");
    }
    if (kUpper ? absl::ascii_islower(c) : absl::ascii_isupper(c)) return false;
    some = some || absl::ascii_isalpha(c);
  }
  return some;
}

bool IsDefined(const Value& v) { return !v.is_undefined(); }
bool IsUndefined(const Value& v) { return v.is_undefined(); }
bool IsNone(const Value& v) { return v.is_none(); }
bool IsBoolean(const Value& v) { return v.is_bool(); }
bool IsTrue(const Value& v) { return v.is_bool() && v.truthy(); }
bool IsFalse(const Value& v) { return v.is_bool() && !v.truthy(); }
bool IsInteger(const Value& v) { return v.is_int(); }
bool IsFloat(const Value& v) { return v.is_float(); }
bool IsNumber(const Value& v) { return v.is_number(); }
bool IsString(const Value& v) { return v.is_string(); }
bool IsMapping(const Value& v) { return v.is_dict(); }
bool IsCallable(const Value& v) { return v.is_callable(); }
// As in Jinja undefined values pass both: they can be iterated over and have a length.
bool IsSequence(const Value& v) {
  return v.is_string() || v.is_sequence() || v.is_dict() || v.is_undefined();
}
bool IsIterable(const Value& v) { return IsSequence(v) || v.is_loop(); }

const absl::flat_hash_map<absl::string_view, Test>& Tests() {
  static const auto* const kTests = new absl::flat_hash_map<absl::string_view, Test>{
      {"defined", Kind<IsDefined>},
      {"undefined", Kind<IsUndefined>},
      {"none", Kind<IsNone>},
      {"boolean", Kind<IsBoolean>},
      {"true", Kind<IsTrue>},
      {"false", Kind<IsFalse>},
      {"integer", Kind<IsInteger>},
      {"float", Kind<IsFloat>},
      {"number", Kind<IsNumber>},
      {"string", Kind<IsString>},
      {"mapping", Kind<IsMapping>},
      {"callable", Kind<IsCallable>},
      {"sequence", Kind<IsSequence>},
      {"iterable", Kind<IsIterable>},
      {"eq", IsEqual},
      {"equalto", IsEqual},
      {"==", IsEqual},
      {"ne", IsNotEqual},
      {"!=", IsNotEqual},
      {"lt", IsOrdered<Less>},
      {"lessthan", IsOrdered<Less>},
      {"<", IsOrdered<Less>},
      {"le", IsOrdered<LessOrEqual>},
      {"<=", IsOrdered<LessOrEqual>},
      {"gt", IsOrdered<Greater>},
      {"greaterthan", IsOrdered<Greater>},
      {">", IsOrdered<Greater>},
      {"ge", IsOrdered<GreaterOrEqual>},
      {">=", IsOrdered<GreaterOrEqual>},
      {"in", IsIn},
      {"sameas", IsSameAs},
      {"odd", HasRemainder<1>},
      {"even", HasRemainder<0>},
      {"divisibleby", IsDivisibleBy},
      {"upper", HasCase<true>},
      {"lower", HasCase<false>},
  };
  return *kTests;
}

}  // namespace

bool IsTest(absl::string_view name) { return Tests().contains(name); }

absl::StatusOr<bool> ApplyTest(absl::string_view name, const Value& value,
                               const Arguments& arguments, Budget& budget) {
  const auto it = Tests().find(name);
  if (it == Tests().end()) {
    return absl::InvalidArgumentError(absl::StrCat("the test '", name, "' is unknown here"));
  }
  absl::StatusOr<bool> result = it->second(value, arguments, budget);
  if (!result.ok()) return Annotate(result.status(), absl::StrCat("test '", name, "'"));
  return result;
}

}  // namespace quantloom::jinja
