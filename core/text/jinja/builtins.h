// What templates can use without defining it: filters, tests, methods, functions.
//
// Errors are INVALID_ARGUMENT (RESOURCE_EXHAUSTED for the budget) without a position; the evaluator
// adds it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/arguments.h"
#include "core/text/jinja/budget.h"
#include "core/text/jinja/value.h"

namespace quantloom::jinja {

bool IsFilter(absl::string_view name);
absl::StatusOr<Value> ApplyFilter(absl::string_view name, const Value& value,
                                  const Arguments& arguments, Budget& budget);

bool IsTest(absl::string_view name);
absl::StatusOr<bool> ApplyTest(absl::string_view name, const Value& value,
                               const Arguments& arguments, Budget& budget);

bool HasMethod(const Value& receiver, absl::string_view name);
absl::StatusOr<Value> CallMethod(const Value& receiver, absl::string_view name,
                                 const Arguments& arguments, Budget& budget);

// range, dict, raise_exception, strftime_now; namespace is the evaluator's.
bool IsFunction(absl::string_view name);
absl::StatusOr<Value> CallFunction(absl::string_view name, const Arguments& arguments,
                                   Budget& budget);

// object.name and object[index]; undefined where there is no such thing, an error for what is
// undefined itself.
absl::StatusOr<Value> GetAttribute(const Value& object, absl::string_view name, Budget& budget);
absl::StatusOr<Value> GetItem(const Value& object, const Value& index, Budget& budget);
// object[start:stop:step]; none stands for a bound that is left out.
absl::StatusOr<Value> GetSlice(const Value& object, const Value& start, const Value& stop,
                               const Value& step, Budget& budget);

// len(value).
absl::StatusOr<int64_t> Length(const Value& value, Budget& budget);

}  // namespace quantloom::jinja
