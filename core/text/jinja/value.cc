#include "core/text/jinja/value.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/text_ops.h"
#include "core/text/utf8.h"

namespace quantloom::jinja {
namespace {

absl::Status TooDeep() { return absl::ResourceExhaustedError("values are nested too deeply"); }

// Appends repr(value).
absl::Status AppendRepr(const Value& value, int depth, Budget& budget, std::string& out);

absl::Status AppendReprOfSequence(const Sequence& sequence, int depth, Budget& budget,
                                  std::string& out) {
  out += sequence.is_tuple ? "(" : "[";
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out += ", ";
    QL_RETURN_IF_ERROR(AppendRepr(sequence.items[i], depth + 1, budget, out));
  }
  if (sequence.is_tuple && sequence.items.size() == 1) out += ",";
  out += sequence.is_tuple ? ")" : "]";
  return absl::OkStatus();
}

template <typename Entries>
absl::Status AppendReprOfEntries(const Entries& entries, int depth, Budget& budget,
                                 std::string& out) {
  out += "{";
  bool first = true;
  for (const auto& [key, value] : entries) {
    absl::StrAppend(&out, first ? "" : ", ", ReprOfText(key), ": ");
    first = false;
    QL_RETURN_IF_ERROR(AppendRepr(value, depth + 1, budget, out));
  }
  out += "}";
  return absl::OkStatus();
}

absl::Status AppendRepr(const Value& value, int depth, Budget& budget, std::string& out) {
  if (depth > kMaxValueDepth) return TooDeep();
  QL_RETURN_IF_ERROR(budget.Step());
  if (value.is_string()) {
    QL_RETURN_IF_ERROR(budget.Charge(4 * value.text().size()));
    out += ReprOfText(value.text());
    return absl::OkStatus();
  }
  if (value.is_sequence()) return AppendReprOfSequence(value.sequence(), depth, budget, out);
  if (value.is_dict()) return AppendReprOfEntries(value.dict().entries, depth, budget, out);
  if (value.is_namespace()) {
    out += "<Namespace ";
    QL_RETURN_IF_ERROR(AppendReprOfEntries(value.name_space().members, depth, budget, out));
    out += ">";
    return absl::OkStatus();
  }
  if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.integer() != 0 ? "True" : "False";
  } else if (value.is_int()) {
    absl::StrAppend(&out, value.integer());
  } else if (value.is_float()) {
    out += ReprOfFloat(value.real());
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", value.type_name(), " cannot be turned into text"));
  }
  return absl::OkStatus();
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  absl::Status Append(const Value& value, int depth) {
    if (depth > kMaxValueDepth) return TooDeep();
    QL_RETURN_IF_ERROR(budget_.Step());
    if (value.is_string()) {
      QL_RETURN_IF_ERROR(budget_.Charge(6 * value.text().size()));
      out_ += JsonOfText(value.text(), style_.ensure_ascii);
    } else if (value.is_sequence()) {
      return AppendSequence(value.sequence(), depth);
    } else if (value.is_dict()) {
      return AppendDict(value.dict(), depth);
    } else if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.integer() != 0 ? "true" : "false";
    } else if (value.is_int()) {
      absl::StrAppend(&out_, value.integer());
    } else if (value.is_float()) {
      const std::string repr = ReprOfFloat(value.real());
      out_ += repr == "nan"    ? "NaN"
              : repr == "inf"  ? "Infinity"
              : repr == "-inf" ? "-Infinity"
                               : repr;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("a value of type ", value.type_name(), " has no JSON form"));
    }
    return absl::OkStatus();
  }

  std::string Take() { return std::move(out_); }

 private:
  absl::Status NewLine(int depth) {
    if (style_.indent < 0) return absl::OkStatus();
    const size_t spaces = static_cast<size_t>(style_.indent) * static_cast<size_t>(depth);
    QL_RETURN_IF_ERROR(budget_.Charge(spaces));
    out_ += "\n";
    out_.append(spaces, ' ');
    return absl::OkStatus();
  }

  absl::Status AppendSequence(const Sequence& sequence, int depth) {
    out_ += "[";
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      QL_RETURN_IF_ERROR(NewLine(depth + 1));
      QL_RETURN_IF_ERROR(Append(sequence.items[i], depth + 1));
    }
    if (!sequence.items.empty()) QL_RETURN_IF_ERROR(NewLine(depth));
    out_ += "]";
    return absl::OkStatus();
  }

  absl::Status AppendDict(const Dict& dict, int depth) {
    std::vector<const std::pair<std::string, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      // UTF-8 sorts by bytes as Python's strings do by code points.
      std::sort(entries.begin(), entries.end(),
                [](const auto* a, const auto* b) { return a->first < b->first; });
    }
    out_ += "{";
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      QL_RETURN_IF_ERROR(NewLine(depth + 1));
      absl::StrAppend(&out_, JsonOfText(entries[i]->first, style_.ensure_ascii),
                      style_.key_separator);
      QL_RETURN_IF_ERROR(Append(entries[i]->second, depth + 1));
    }
    if (!entries.empty()) QL_RETURN_IF_ERROR(NewLine(depth));
    out_ += "}";
    return absl::OkStatus();
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
};

absl::StatusOr<int> CompareSequences(const Sequence& a, const Sequence& b, Budget& budget) {
  const size_t common = std::min(a.items.size(), b.items.size());
  for (size_t i = 0; i < common; ++i) {
    QL_ASSIGN_OR_RETURN(const bool equal, Equal(a.items[i], b.items[i], budget));
    if (!equal) return Compare(a.items[i], b.items[i], budget);
  }
  return a.items.size() < b.items.size() ? -1 : a.items.size() > b.items.size() ? 1 : 0;
}

absl::StatusOr<bool> EqualSequences(const Sequence& a, const Sequence& b, Budget& budget) {
  if (a.is_tuple != b.is_tuple || a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    QL_ASSIGN_OR_RETURN(const bool equal, Equal(a.items[i], b.items[i], budget));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDicts(const Dict& a, const Dict& b, Budget& budget) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    QL_RETURN_IF_ERROR(budget.Charge(b.entries.size()));
    const Value* other = b.Find(key);
    if (other == nullptr) return false;
    QL_ASSIGN_OR_RETURN(const bool equal, Equal(value, *other, budget));
    if (!equal) return false;
  }
  return true;
}

}  // namespace

const Value* Dict::Find(absl::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<Value> Value::MakeSequence(std::vector<Value> items, bool is_tuple) {
  auto sequence = std::make_shared<Sequence>();
  for (const Value& item : items) sequence->depth = std::max(sequence->depth, item.depth() + 1);
  if (sequence->depth > kMaxValueDepth) return TooDeep();
  sequence->items = std::move(items);
  sequence->is_tuple = is_tuple;
  Value value;
  value.data_ = SequencePtr(std::move(sequence));
  return value;
}

absl::StatusOr<Value> Value::MakeDict(std::vector<std::pair<std::string, Value>> entries) {
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : entries) dict->depth = std::max(dict->depth, value.depth() + 1);
  if (dict->depth > kMaxValueDepth) return TooDeep();
  dict->entries = std::move(entries);
  Value value;
  value.data_ = DictPtr(std::move(dict));
  return value;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_float()) return real() != 0;
  if (is_number()) return integer() != 0;
  if (is_string()) return !text().empty();
  if (is_sequence()) return !sequence().items.empty();
  if (is_dict()) return !dict().entries.empty();
  return true;
}

absl::string_view Value::type_name() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (is_sequence()) return sequence().is_tuple ? "tuple" : "list";
  if (is_dict()) return "dict";
  if (is_namespace()) return "namespace";
  return is_loop() ? "loop" : "function";
}

int Value::depth() const {
  if (is_sequence()) return sequence().depth;
  if (is_dict()) return dict().depth;
  if (is_loop()) return loop().items->depth + 1;
  if (is_callable() && callable().receiver != nullptr) return callable().receiver->depth() + 1;
  return 0;
}

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Step());
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.real() == b.real();
    return a.integer() == b.integer();
  }
  if (a.is_string() && b.is_string()) {
    if (a.text().size() != b.text().size()) return false;
    QL_RETURN_IF_ERROR(budget.Charge(a.text().size()));
    return a.text() == b.text();
  }
  if (a.is_sequence() && b.is_sequence()) return EqualSequences(a.sequence(), b.sequence(), budget);
  if (a.is_dict() && b.is_dict()) return EqualDicts(a.dict(), b.dict(), budget);
  if (a.is_namespace() && b.is_namespace()) return &a.name_space() == &b.name_space();
  if (a.is_loop() && b.is_loop()) return &a.loop() == &b.loop();
  return false;
}

absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Step());
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.real() < b.real() ? -1 : a.real() > b.real() ? 1 : 0;
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
  }
  if (a.is_string() && b.is_string()) {
    QL_RETURN_IF_ERROR(budget.Charge(std::min(a.text().size(), b.text().size())));
    const int order = a.text().compare(b.text());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if (a.is_sequence() && b.is_sequence() && a.sequence().is_tuple == b.sequence().is_tuple) {
    return CompareSequences(a.sequence(), b.sequence(), budget);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot order ", a.type_name(), " and ", b.type_name()));
}

absl::StatusOr<bool> Contains(const Value& haystack, const Value& needle, Budget& budget) {
  if (haystack.is_string()) {
    if (!needle.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a string cannot contain a ", needle.type_name()));
    }
    QL_RETURN_IF_ERROR(budget.Charge(haystack.text().size()));
    return FindText(haystack.text(), needle.text()) != absl::string_view::npos;
  }
  if (haystack.is_dict()) {
    QL_RETURN_IF_ERROR(budget.Charge(haystack.dict().entries.size()));
    return needle.is_string() && haystack.dict().Find(needle.text()) != nullptr;
  }
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(haystack, budget));
  for (const Value& item : items->items) {
    QL_ASSIGN_OR_RETURN(const bool equal, Equal(item, needle, budget));
    if (equal) return true;
  }
  return false;
}

absl::StatusOr<std::string> ToText(const Value& value, Budget& budget) {
  if (value.is_undefined()) return "";
  if (value.is_string()) {
    QL_RETURN_IF_ERROR(budget.Charge(value.text().size()));
    return value.text();
  }
  std::string out;
  QL_RETURN_IF_ERROR(AppendRepr(value, 0, budget, out));
  return out;
}

absl::StatusOr<Value::SequencePtr> Items(const Value& value, Budget& budget) {
  if (value.is_sequence()) return value.sequence_ptr();
  auto items = std::make_shared<Sequence>();
  if (value.is_dict()) {
    QL_RETURN_IF_ERROR(budget.Charge(value.dict().entries.size() * sizeof(Value)));
    for (const auto& [key, unused] : value.dict().entries) items->items.push_back(Value(key));
  } else if (value.is_string()) {
    // A string of one character takes about this much beside its bytes.
    constexpr size_t kCharacterBytes = 128;
    const absl::string_view text = value.text();
    QL_RETURN_IF_ERROR(budget.Charge(CountCharacters(text) * kCharacterBytes));
    for (size_t i = 0; i < text.size();) {
      const uint32_t length = DecodeUtf8(text.substr(i)).length;
      items->items.push_back(Value(text.substr(i, length)));
      i += length;
    }
  } else if (value.is_loop()) {
    return value.loop().items;
  } else if (!value.is_undefined()) {
    return absl::InvalidArgumentError(absl::StrCat("a ", value.type_name(), " has no items"));
  }
  return items;
}

absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  QL_RETURN_IF_ERROR(writer.Append(value, 0));
  return writer.Take();
}

}  // namespace quantloom::jinja
