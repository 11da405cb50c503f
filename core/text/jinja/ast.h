// The tree that a template is parsed into. Immutable after parsing; may be evaluated by several
// threads at once.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/text/jinja/position.h"
#include "core/text/jinja/value.h"

namespace quantloom::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

// A node of an expression. `children`, `name` and `operators` hold, by kind:
struct Expression {
  enum class Kind {
    kLiteral,      // `literal`
    kName,         // `name`
    kList,         // the items
    kTuple,        // the items
    kDict,         // key, value, key, value ...
    kNot,          // the operand
    kNegate,       // the operand
    kPlus,         // the operand
    kAnd,          // left, right
    kOr,           // left, right
    kArithmetic,   // left, right; operators[0] is + - * / // % **
    kConcatenate,  // the operands of a chain of ~
    kComparison,   // first, second ...; operators[i] between children i and i + 1: == != < <= > >=
                   // in, not in
    kConditional,  // value, condition, other value (null: undefined)
    kAttribute,    // the object; `name`
    kIndex,        // the object, the index
    kSlice,        // the object, start, stop, step (each may be null)
    kCall,         // the callee, positional arguments ...; `keywords`
    kFilter,       // the value, positional arguments ...; `name`, `keywords`
    kTest,         // the value, positional arguments ...; `name`, `keywords`
  };
  Kind kind;
  Position position;
  int height = 1;  // of this subtree
  Value literal;
  std::string name;
  std::vector<std::string> operators;
  std::vector<ExpressionPtr> children;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
};

struct Statement {
  enum class Kind {
    kText,     // `text`
    kOutput,   // expressions[0]
    kIf,       // expressions[i] guards branches[i]; one branch more is the else
    kFor,      // targets; expressions: iterable, filter (null: none); branches: body, else
    kSet,      // targets (or `text`.targets[0], a namespace's member); expressions[0]
    kCapture,  // targets[0]; branches[0] is rendered into it
    kMacro,    // `text` is its name; targets: parameters; expressions: defaults, null for none
    kBreak,
    kContinue,
  };
  Kind kind;
  Position position;
  std::string text;
  std::vector<std::string> targets;
  std::vector<ExpressionPtr> expressions;
  std::vector<std::vector<Statement>> branches;
};

}  // namespace quantloom::jinja
