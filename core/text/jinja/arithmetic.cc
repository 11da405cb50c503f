#include "core/text/jinja/arithmetic.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status Overflow() { return absl::InvalidArgumentError("integer overflow"); }
absl::Status DivisionByZero() { return absl::InvalidArgumentError("division by zero"); }

Result IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return Value(result);
}

Result OnIntegers(absl::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") return __builtin_add_overflow(a, b, &result) ? Result(Overflow()) : Value(result);
  if (op == "-") return __builtin_sub_overflow(a, b, &result) ? Result(Overflow()) : Value(result);
  if (op == "*") return __builtin_mul_overflow(a, b, &result) ? Result(Overflow()) : Value(result);
  if (op == "**") return IntegerPower(a, b);
  if (b == 0) return DivisionByZero();
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == "%" ? Value(int64_t{0}) : OnIntegers("-", 0, a);
  // C++ rounds to zero, Python down.
  const int64_t remainder = a % b;
  const bool rounds_down = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == "%") return Value(rounds_down ? remainder + b : remainder);
  return Value(a / b - (rounds_down ? 1 : 0));
}

Result OnReals(absl::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) return DivisionByZero();
  if (op == "/") return Value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == "%") return Value(remainder);
  return Value(std::floor((a - remainder) / b + 0.5));
}

Result Concatenate(const Sequence& a, const Sequence& b, Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Charge((a.items.size() + b.items.size()) * sizeof(Value)));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return Value::MakeSequence(std::move(items), a.is_tuple);
}

Result Repeat(const Value& value, int64_t count, Budget& budget) {
  const uint64_t times = count < 0 ? 0 : static_cast<uint64_t>(count);
  const size_t size =
      value.is_string() ? value.text().size() : value.sequence().items.size() * sizeof(Value);
  size_t total = 0;
  if (__builtin_mul_overflow(size, times, &total)) total = SIZE_MAX;
  QL_RETURN_IF_ERROR(budget.Charge(total));
  if (size == 0) return value;
  if (value.is_string()) {
    std::string text;
    for (uint64_t i = 0; i < times; ++i) text += value.text();
    return Value(std::move(text));
  }
  std::vector<Value> items;
  const std::vector<Value>& once = value.sequence().items;
  for (uint64_t i = 0; i < times; ++i) items.insert(items.end(), once.begin(), once.end());
  return Value::MakeSequence(std::move(items), value.sequence().is_tuple);
}

bool Repeats(const Value& value, const Value& count) {
  return (value.is_string() || value.is_sequence()) && (count.is_int() || count.is_bool());
}

}  // namespace

absl::StatusOr<Value> Arithmetic(absl::string_view op, const Value& left, const Value& right,
                                 Budget& budget) {
  for (const Value* operand : {&left, &right}) {
    if (operand->is_undefined()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", operand->undefined_name(), "' is undefined"));
    }
  }
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) return OnReals(op, left.real(), right.real());
    return OnIntegers(op, left.integer(), right.integer());
  }
  if (op == "+" && left.is_string() && right.is_string()) {
    QL_RETURN_IF_ERROR(budget.Charge(left.text().size() + right.text().size()));
    return Value(absl::StrCat(left.text(), right.text()));
  }
  if (op == "+" && left.is_sequence() && left.type_name() == right.type_name()) {
    return Concatenate(left.sequence(), right.sequence(), budget);
  }
  if (op == "*" && Repeats(left, right)) return Repeat(left, right.integer(), budget);
  if (op == "*" && Repeats(right, left)) return Repeat(right, left.integer(), budget);
  return absl::InvalidArgumentError(absl::StrCat("the operator ", op, " does not take ",
                                                 left.type_name(), " and ", right.type_name()));
}

absl::StatusOr<Value> Negate(const Value& operand) {
  if (operand.is_float()) return Value(-operand.real());
  if (!operand.is_number()) {
    return absl::InvalidArgumentError(absl::StrCat("a ", operand.type_name(), " has no sign"));
  }
  return OnIntegers("-", 0, operand.integer());
}

}  // namespace quantloom::jinja
