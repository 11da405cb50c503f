// Values of a template: Python's, as far as templates see them.
//
// Values are immutable and shared by reference, except namespaces, which `set ns.x` changes and
// which the evaluation owns: it empties them at its end, so that cycles through them do not leak.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/budget.h"

namespace quantloom::jinja {

class Value;
struct Statement;

// Lists inside lists inside lists: deeper ones are refused, since destroying them recurses.
inline constexpr int kMaxValueDepth = 64;

struct Undefined {
  std::string name;  // what was looked for
};
struct None {};

struct Sequence {
  std::vector<Value> items;
  bool is_tuple = false;
  int depth = 1;
};

struct Dict {
  std::vector<std::pair<std::string, Value>> entries;  // in insertion order, each key once
  int depth = 1;
  const Value* Find(absl::string_view key) const;
};

struct Namespace {
  std::map<std::string, Value, std::less<>> members;
};

// The `loop` variable of a running for statement.
struct Loop {
  std::shared_ptr<const Sequence> items;
  size_t index = 0;
};

// Something that can be called: a function by its name, a method with its receiver, a macro.
struct Callable {
  std::string name;
  std::shared_ptr<const Value> receiver;  // null for functions and macros
  const Statement* macro = nullptr;
};

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using SequencePtr = std::shared_ptr<const Sequence>;
  using DictPtr = std::shared_ptr<const Dict>;
  using NamespacePtr = std::shared_ptr<Namespace>;
  using LoopPtr = std::shared_ptr<Loop>;

  Value() : data_(None{}) {}
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(absl::string_view text)
      : data_(std::make_shared<const std::string>(text.data(), text.size())) {}
  explicit Value(std::string text) : data_(std::make_shared<const std::string>(std::move(text))) {}
  explicit Value(const char* text) : Value(absl::string_view(text)) {}
  explicit Value(NamespacePtr value) : data_(std::move(value)) {}
  explicit Value(LoopPtr value) : data_(std::move(value)) {}
  explicit Value(Callable value) : data_(std::move(value)) {}
  static Value MakeUndefined(absl::string_view name) {
    Value value;
    value.data_ = Undefined{std::string(name)};
    return value;
  }
  // RESOURCE_EXHAUSTED where they would be nested too deeply.
  static absl::StatusOr<Value> MakeSequence(std::vector<Value> items, bool is_tuple = false);
  static absl::StatusOr<Value> MakeDict(std::vector<std::pair<std::string, Value>> entries);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }  // as in Python
  bool is_string() const { return std::holds_alternative<Text>(data_); }
  bool is_sequence() const { return std::holds_alternative<SequencePtr>(data_); }
  bool is_dict() const { return std::holds_alternative<DictPtr>(data_); }
  bool is_namespace() const { return std::holds_alternative<NamespacePtr>(data_); }
  bool is_loop() const { return std::holds_alternative<LoopPtr>(data_); }
  bool is_callable() const { return std::holds_alternative<Callable>(data_); }

  // Each for its kind only.
  const std::string& text() const { return *std::get<Text>(data_); }
  const Sequence& sequence() const { return *std::get<SequencePtr>(data_); }
  const SequencePtr& sequence_ptr() const { return std::get<SequencePtr>(data_); }
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Namespace& name_space() const { return *std::get<NamespacePtr>(data_); }
  Loop& loop() const { return *std::get<LoopPtr>(data_); }
  const Callable& callable() const { return std::get<Callable>(data_); }
  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }
  int64_t integer() const {
    return is_bool() ? int64_t{std::get<bool>(data_)} : std::get<int64_t>(data_);
  }
  double real() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
  }

  // bool(value).
  bool truthy() const;
  // Python's name of the type, for messages.
  absl::string_view type_name() const;
  int depth() const;

 private:
  std::variant<Undefined, None, bool, int64_t, double, Text, SequencePtr, DictPtr, NamespacePtr,
               LoopPtr, Callable>
      data_;
};

// a == b.
absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget);
// -1, 0, 1 for numbers, strings and sequences; INVALID_ARGUMENT for what has no order.
absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget& budget);
// needle in haystack.
absl::StatusOr<bool> Contains(const Value& haystack, const Value& needle, Budget& budget);

// str(value), what {{ value }} prints.
absl::StatusOr<std::string> ToText(const Value& value, Budget& budget);

// What a for statement runs over: the items of a sequence, the keys of a dict, the characters of a
// string; nothing for an undefined value.
absl::StatusOr<Value::SequencePtr> Items(const Value& value, Budget& budget);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  int indent = -1;  // -1: on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// json.dumps.
absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace quantloom::jinja
