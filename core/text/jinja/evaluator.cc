#include "core/text/jinja/evaluator.h"

#include <algorithm>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/arithmetic.h"
#include "core/text/jinja/builtins.h"

namespace quantloom::jinja {
namespace {

// Recursion of the evaluator, whatever the template's shape: far below what a thread's stack holds.
constexpr int kMaxFrames = 1000;

// All text that is made or looked at may be this many times as long as the longest output.
constexpr size_t kWorkPerOutputByte = 16;

struct Scope {
  const Scope* parent = nullptr;
  absl::flat_hash_map<std::string, Value> variables;

  const Value* Find(absl::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
      const auto it = scope->variables.find(name);
      if (it != scope->variables.end()) return &it->second;
    }
    return nullptr;
  }
};

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  explicit Evaluator(const EvaluationLimits& limits)
      : limits_(limits), budget_(limits.max_steps, limits.max_output_bytes * kWorkPerOutputByte) {}

  // Namespaces may refer to each other in circles: emptied, they let go.
  ~Evaluator() {
    for (const Value::NamespacePtr& name_space : namespaces_) {
      // What is in it must not go before it is empty itself.
      const auto members = std::move(name_space->members);
      name_space->members.clear();
    }
  }
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  absl::StatusOr<std::string> Run(const std::vector<Statement>& statements,
                                  std::vector<std::pair<std::string, Value>> variables) {
    for (auto& [name, value] : variables) root_.variables[name] = std::move(value);
    std::string out;
    QL_RETURN_IF_ERROR(RunAll(statements, root_, out).status());
    return out;
  }

 private:
  using Result = absl::StatusOr<Value>;

  // --- Statements.

  absl::StatusOr<Flow> RunAll(const std::vector<Statement>& statements, Scope& scope,
                              std::string& out) {
    for (const Statement& statement : statements) {
      QL_ASSIGN_OR_RETURN(const Flow flow, RunOne(statement, scope, out));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> RunOne(const Statement& statement, Scope& scope, std::string& out) {
    QL_RETURN_IF_ERROR(At(statement.position, budget_.Step()));
    switch (statement.kind) {
      case Statement::Kind::kText:
        QL_RETURN_IF_ERROR(Append(statement, statement.text, out));
        return Flow::kNext;
      case Statement::Kind::kOutput:
        QL_RETURN_IF_ERROR(RunOutput(statement, scope, out));
        return Flow::kNext;
      case Statement::Kind::kIf:
        return RunIf(statement, scope, out);
      case Statement::Kind::kFor:
        return RunFor(statement, scope, out);
      case Statement::Kind::kSet:
        QL_RETURN_IF_ERROR(RunSet(statement, scope));
        return Flow::kNext;
      case Statement::Kind::kCapture:
        QL_RETURN_IF_ERROR(RunCapture(statement, scope));
        return Flow::kNext;
      case Statement::Kind::kMacro:
        scope.variables[statement.text] = Value(Callable{statement.text, nullptr, &statement});
        return Flow::kNext;
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return absl::InternalError("unknown statement");
  }

  absl::Status Append(const Statement& statement, absl::string_view text, std::string& out) {
    if (text.size() > limits_.max_output_bytes - out.size()) {
      return At(statement.position,
                absl::ResourceExhaustedError(absl::StrCat("the output is longer than ",
                                                          limits_.max_output_bytes, " bytes")));
    }
    out.append(text.data(), text.size());
    return absl::OkStatus();
  }

  absl::Status RunOutput(const Statement& statement, Scope& scope, std::string& out) {
    QL_ASSIGN_OR_RETURN(const Value value, Eval(*statement.expressions[0], scope));
    if (value.is_string()) return Append(statement, value.text(), out);
    const absl::StatusOr<std::string> text = ToText(value, budget_);
    if (!text.ok()) return At(statement.position, text.status());
    return Append(statement, *text, out);
  }

  absl::StatusOr<Flow> RunIf(const Statement& statement, Scope& scope, std::string& out) {
    for (size_t i = 0; i < statement.expressions.size(); ++i) {
      QL_ASSIGN_OR_RETURN(const Value condition, Eval(*statement.expressions[i], scope));
      if (condition.truthy()) return RunAll(statement.branches[i], scope, out);
    }
    if (statement.branches.size() == statement.expressions.size()) return Flow::kNext;
    return RunAll(statement.branches.back(), scope, out);
  }

  absl::StatusOr<Flow> RunFor(const Statement& statement, Scope& scope, std::string& out) {
    QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, LoopItems(statement, scope));
    const auto loop = std::make_shared<Loop>();
    loop->items = items;
    for (; loop->index < items->items.size(); ++loop->index) {
      QL_RETURN_IF_ERROR(At(statement.position, budget_.Step()));
      // Each round has variables of its own: what it sets is gone in the next.
      Scope round{&scope, {}};
      round.variables["loop"] = Value(loop);
      QL_RETURN_IF_ERROR(
          At(statement.position, Assign(statement.targets, items->items[loop->index], round)));
      QL_ASSIGN_OR_RETURN(const Flow flow, RunAll(statement.branches[0], round, out));
      if (flow == Flow::kBreak) break;
    }
    if (!items->items.empty() || statement.branches.size() < 2) return Flow::kNext;
    Scope otherwise{&scope, {}};
    return RunAll(statement.branches[1], otherwise, out);
  }

  // What the loop runs over: the iterable's items, of which the filter keeps some.
  absl::StatusOr<Value::SequencePtr> LoopItems(const Statement& statement, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value iterable, Eval(*statement.expressions[0], scope));
    absl::StatusOr<Value::SequencePtr> all = Items(iterable, budget_);
    if (!all.ok()) return At(statement.position, all.status());
    if (statement.expressions[1] == nullptr) return all;
    std::vector<Value> kept;
    for (const Value& item : (*all)->items) {
      QL_RETURN_IF_ERROR(At(statement.position, budget_.Step()));
      Scope round{&scope, {}};
      QL_RETURN_IF_ERROR(At(statement.position, Assign(statement.targets, item, round)));
      QL_ASSIGN_OR_RETURN(const Value condition, Eval(*statement.expressions[1], round));
      if (condition.truthy()) kept.push_back(item);
    }
    QL_ASSIGN_OR_RETURN(const Value sequence, Value::MakeSequence(std::move(kept)));
    return sequence.sequence_ptr();
  }

  // targets = value, unpacked where there are several.
  absl::Status Assign(const std::vector<std::string>& targets, const Value& value, Scope& scope) {
    if (targets.size() == 1) {
      scope.variables[targets[0]] = value;
      return absl::OkStatus();
    }
    QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget_));
    if (items->items.size() != targets.size()) {
      return absl::InvalidArgumentError(absl::StrCat("cannot unpack ", items->items.size(),
                                                     " values into ", targets.size(), " names"));
    }
    for (size_t i = 0; i < targets.size(); ++i) scope.variables[targets[i]] = items->items[i];
    return absl::OkStatus();
  }

  absl::Status RunSet(const Statement& statement, Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value value, Eval(*statement.expressions[0], scope));
    if (statement.text.empty()) {
      return At(statement.position, Assign(statement.targets, value, scope));
    }
    const Value* object = scope.Find(statement.text);
    if (object == nullptr || !object->is_namespace()) {
      return ErrorAt(statement.position, absl::StrCat("'", statement.text, "' is not a namespace"));
    }
    object->name_space().members[statement.targets[0]] = value;
    return absl::OkStatus();
  }

  absl::Status RunCapture(const Statement& statement, Scope& scope) {
    std::string text;
    Scope inner{&scope, {}};
    QL_RETURN_IF_ERROR(RunAll(statement.branches[0], inner, text).status());
    QL_RETURN_IF_ERROR(At(statement.position, budget_.Charge(text.size())));
    scope.variables[statement.targets[0]] = Value(std::move(text));
    return absl::OkStatus();
  }

  // --- Expressions.

  Result Eval(const Expression& expression, const Scope& scope) {
    QL_RETURN_IF_ERROR(At(expression.position, budget_.Step()));
    if (frames_ == kMaxFrames) {
      return At(expression.position,
                absl::ResourceExhaustedError("the template recurses too deeply"));
    }
    ++frames_;
    Result result = Dispatch(expression, scope);
    --frames_;
    return result;
  }

  Result Dispatch(const Expression& e, const Scope& scope) {
    switch (e.kind) {
      case Expression::Kind::kLiteral:
        return e.literal;
      case Expression::Kind::kName:
        return EvalName(e, scope);
      case Expression::Kind::kList:
      case Expression::Kind::kTuple:
        return EvalSequence(e, scope);
      case Expression::Kind::kDict:
        return EvalDict(e, scope);
      case Expression::Kind::kNot:
      case Expression::Kind::kNegate:
      case Expression::Kind::kPlus:
        return EvalUnary(e, scope);
      case Expression::Kind::kAnd:
      case Expression::Kind::kOr:
        return EvalLogic(e, scope);
      case Expression::Kind::kArithmetic:
        return EvalArithmetic(e, scope);
      case Expression::Kind::kConcatenate:
        return EvalConcatenation(e, scope);
      case Expression::Kind::kComparison:
        return EvalComparison(e, scope);
      case Expression::Kind::kConditional:
        return EvalConditional(e, scope);
      case Expression::Kind::kAttribute:
        return EvalAttribute(e, scope);
      case Expression::Kind::kIndex:
        return EvalIndex(e, scope);
      case Expression::Kind::kSlice:
        return EvalSlice(e, scope);
      case Expression::Kind::kCall:
        return EvalCall(e, scope);
      case Expression::Kind::kFilter:
        return EvalFilter(e, scope);
      case Expression::Kind::kTest:
        return EvalTest(e, scope);
    }
    return absl::InternalError("unknown expression");
  }

  // `result`, its error with the position of `expression`.
  template <typename T>
  static absl::StatusOr<T> Located(const Expression& expression, absl::StatusOr<T> result) {
    if (!result.ok()) return At(expression.position, result.status());
    return result;
  }

  static Result EvalName(const Expression& e, const Scope& scope) {
    if (const Value* value = scope.Find(e.name)) return *value;
    if (IsFunction(e.name) || e.name == "namespace")
      return Value(Callable{e.name, nullptr, nullptr});
    return Value::MakeUndefined(e.name);
  }

  absl::StatusOr<std::vector<Value>> EvalAll(const Expression& e, size_t first,
                                             const Scope& scope) {
    std::vector<Value> values;
    values.reserve(e.children.size() - first);
    for (size_t i = first; i < e.children.size(); ++i) {
      QL_ASSIGN_OR_RETURN(Value value, Eval(*e.children[i], scope));
      values.push_back(std::move(value));
    }
    return values;
  }

  Result EvalSequence(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(std::vector<Value> items, EvalAll(e, 0, scope));
    return Located(e, Value::MakeSequence(std::move(items), e.kind == Expression::Kind::kTuple));
  }

  Result EvalDict(const Expression& e, const Scope& scope) {
    std::vector<std::pair<std::string, Value>> entries;
    for (size_t i = 0; i < e.children.size(); i += 2) {
      QL_ASSIGN_OR_RETURN(const Value key, Eval(*e.children[i], scope));
      if (!key.is_string()) return ErrorAt(e.position, "the keys of a dict must be strings here");
      QL_ASSIGN_OR_RETURN(Value value, Eval(*e.children[i + 1], scope));
      QL_RETURN_IF_ERROR(At(e.position, budget_.Charge(key.text().size() + entries.size())));
      const auto same = std::find_if(entries.begin(), entries.end(),
                                     [&](const auto& entry) { return entry.first == key.text(); });
      if (same != entries.end()) {
        same->second = std::move(value);
      } else {
        entries.emplace_back(key.text(), std::move(value));
      }
    }
    return Located(e, Value::MakeDict(std::move(entries)));
  }

  Result EvalUnary(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(Value operand, Eval(*e.children[0], scope));
    if (e.kind == Expression::Kind::kNot) return Value(!operand.truthy());
    if (e.kind == Expression::Kind::kNegate) return Located(e, Negate(operand));
    if (!operand.is_number()) return ErrorAt(e.position, "the operator + needs a number");
    return operand.is_bool() ? Value(operand.integer()) : operand;
  }

  // `and` and `or` give one of their operands.
  Result EvalLogic(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(Value left, Eval(*e.children[0], scope));
    if (left.truthy() == (e.kind == Expression::Kind::kOr)) return left;
    return Eval(*e.children[1], scope);
  }

  Result EvalArithmetic(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value left, Eval(*e.children[0], scope));
    QL_ASSIGN_OR_RETURN(const Value right, Eval(*e.children[1], scope));
    return Located(e, Arithmetic(e.operators[0], left, right, budget_));
  }

  Result EvalConcatenation(const Expression& e, const Scope& scope) {
    std::string text;
    for (const ExpressionPtr& child : e.children) {
      QL_ASSIGN_OR_RETURN(const Value value, Eval(*child, scope));
      QL_ASSIGN_OR_RETURN(const std::string part, Located(e, ToText(value, budget_)));
      text += part;
    }
    return Value(std::move(text));
  }

  absl::StatusOr<bool> CompareBy(const std::string& op, const Value& left, const Value& right) {
    if (op == "==") return Equal(left, right, budget_);
    if (op == "in") return Contains(right, left, budget_);
    if (op == "!=") {
      QL_ASSIGN_OR_RETURN(const bool equal, Equal(left, right, budget_));
      return !equal;
    }
    if (op == "not in") {
      QL_ASSIGN_OR_RETURN(const bool contains, Contains(right, left, budget_));
      return !contains;
    }
    QL_ASSIGN_OR_RETURN(const int order, Compare(left, right, budget_));
    if (op == "<") return order < 0;
    if (op == "<=") return order <= 0;
    return op == ">" ? order > 0 : order >= 0;
  }

  // a < b < c is a < b and b < c.
  Result EvalComparison(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(Value left, Eval(*e.children[0], scope));
    for (size_t i = 0; i < e.operators.size(); ++i) {
      QL_ASSIGN_OR_RETURN(Value right, Eval(*e.children[i + 1], scope));
      QL_ASSIGN_OR_RETURN(const bool holds, Located(e, CompareBy(e.operators[i], left, right)));
      if (!holds) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  Result EvalConditional(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value condition, Eval(*e.children[1], scope));
    if (condition.truthy()) return Eval(*e.children[0], scope);
    if (e.children[2] == nullptr) return Value::MakeUndefined("value of an if without else");
    return Eval(*e.children[2], scope);
  }

  Result EvalAttribute(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value object, Eval(*e.children[0], scope));
    return Located(e, GetAttribute(object, e.name, budget_));
  }

  Result EvalIndex(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value object, Eval(*e.children[0], scope));
    QL_ASSIGN_OR_RETURN(const Value index, Eval(*e.children[1], scope));
    return Located(e, GetItem(object, index, budget_));
  }

  Result EvalSlice(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value object, Eval(*e.children[0], scope));
    Value bounds[3];
    for (int i = 0; i < 3; ++i) {
      if (e.children[i + 1] == nullptr) continue;
      QL_ASSIGN_OR_RETURN(bounds[i], Eval(*e.children[i + 1], scope));
    }
    return Located(e, GetSlice(object, bounds[0], bounds[1], bounds[2], budget_));
  }

  absl::StatusOr<Arguments> EvalArguments(const Expression& e, const Scope& scope) {
    Arguments arguments;
    QL_ASSIGN_OR_RETURN(arguments.positional, EvalAll(e, 1, scope));
    for (const auto& [name, child] : e.keywords) {
      QL_ASSIGN_OR_RETURN(Value value, Eval(*child, scope));
      arguments.keywords.emplace_back(name, std::move(value));
    }
    return arguments;
  }

  Result EvalFilter(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value value, Eval(*e.children[0], scope));
    QL_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(e, scope));
    return Located(e, ApplyFilter(e.name, value, arguments, budget_));
  }

  Result EvalTest(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value value, Eval(*e.children[0], scope));
    QL_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(e, scope));
    QL_ASSIGN_OR_RETURN(const bool holds, Located(e, ApplyTest(e.name, value, arguments, budget_)));
    return Value(holds);
  }

  Result EvalCall(const Expression& e, const Scope& scope) {
    QL_ASSIGN_OR_RETURN(const Value callee, Eval(*e.children[0], scope));
    if (callee.is_undefined()) {
      return ErrorAt(e.position, absl::StrCat("'", callee.undefined_name(), "' is undefined"));
    }
    if (!callee.is_callable()) {
      return ErrorAt(e.position, absl::StrCat("a ", callee.type_name(), " cannot be called"));
    }
    QL_ASSIGN_OR_RETURN(Arguments arguments, EvalArguments(e, scope));
    const Callable& callable = callee.callable();
    if (callable.macro != nullptr) return CallMacro(e, *callable.macro, std::move(arguments));
    if (callable.receiver != nullptr) {
      return Located(e, CallMethod(*callable.receiver, callable.name, arguments, budget_));
    }
    if (callable.name == "namespace") return MakeNamespace(e, arguments);
    return Located(e, CallFunction(callable.name, arguments, budget_));
  }

  Result MakeNamespace(const Expression& e, const Arguments& arguments) {
    auto name_space = std::make_shared<Namespace>();
    if (!arguments.positional.empty()) {
      if (arguments.positional.size() > 1 || !arguments.positional[0].is_dict()) {
        return ErrorAt(e.position, "namespace() takes one dict and keyword arguments");
      }
      for (const auto& [name, value] : arguments.positional[0].dict().entries) {
        name_space->members[name] = value;
      }
    }
    for (const auto& [name, value] : arguments.keywords) name_space->members[name] = value;
    QL_RETURN_IF_ERROR(At(e.position, budget_.Charge(name_space->members.size() * sizeof(Value))));
    namespaces_.push_back(name_space);
    return Value(std::move(name_space));
  }

  Result CallMacro(const Expression& e, const Statement& macro, Arguments arguments) {
    if (macro_depth_ >= limits_.max_depth) {
      return At(e.position, absl::ResourceExhaustedError("macros call each other too deeply"));
    }
    if (arguments.positional.size() > macro.targets.size()) {
      return ErrorAt(e.position, absl::StrCat("macro '", macro.text, "' takes at most ",
                                              macro.targets.size(), " arguments"));
    }
    Scope scope{&root_, {}};
    for (size_t i = 0; i < arguments.positional.size(); ++i) {
      scope.variables[macro.targets[i]] = std::move(arguments.positional[i]);
    }
    for (auto& [name, value] : arguments.keywords) {
      const bool known =
          std::find(macro.targets.begin(), macro.targets.end(), name) != macro.targets.end();
      if (!known || !scope.variables.try_emplace(name, std::move(value)).second) {
        return ErrorAt(e.position,
                       absl::StrCat("macro '", macro.text, "' cannot take '", name, "'"));
      }
    }
    for (size_t i = arguments.positional.size(); i < macro.targets.size(); ++i) {
      if (scope.variables.contains(macro.targets[i])) continue;
      Value value = Value::MakeUndefined(macro.targets[i]);
      if (macro.expressions[i] != nullptr) {
        QL_ASSIGN_OR_RETURN(value, Eval(*macro.expressions[i], scope));
      }
      scope.variables[macro.targets[i]] = std::move(value);
    }
    std::string text;
    ++macro_depth_;
    const absl::Status status = RunAll(macro.branches[0], scope, text).status();
    --macro_depth_;
    QL_RETURN_IF_ERROR(status);
    QL_RETURN_IF_ERROR(At(e.position, budget_.Charge(text.size())));
    return Value(std::move(text));
  }

  const EvaluationLimits& limits_;
  Budget budget_;
  Scope root_;
  std::vector<Value::NamespacePtr> namespaces_;
  int frames_ = 0;
  size_t macro_depth_ = 0;
};

}  // namespace

absl::StatusOr<std::string> Evaluate(const std::vector<Statement>& statements,
                                     std::vector<std::pair<std::string, Value>> variables,
                                     const EvaluationLimits& limits) {
  return Evaluator(limits).Run(statements, std::move(variables));
}

}  // namespace quantloom::jinja
