#include "core/text/jinja/parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/builtins.h"
#include "core/text/jinja/lexer.h"

namespace quantloom::jinja {
namespace {

// Bounds on the recursion here and in the evaluator.
constexpr int kMaxNesting = 64;
constexpr int kMaxHeight = 200;

constexpr absl::string_view kReserved[] = {"and", "or", "not", "in", "is", "if", "else"};

template <typename Names>
bool IsOneOf(absl::string_view name, const Names& names) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<std::vector<Statement>> Run() {
    QL_ASSIGN_OR_RETURN(std::vector<Statement> statements, Body({}));
    return statements;
  }

 private:
  using Kind = Expression::Kind;
  using Result = absl::StatusOr<ExpressionPtr>;

  // Counts how deep the parser has recursed, for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) { ++parser_.nesting_; }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    absl::Status Check() const {
      if (parser_.nesting_ <= kMaxNesting) return absl::OkStatus();
      return parser_.Error("nested too deeply");
    }

   private:
    Parser& parser_;
  };

  // --- Tokens.

  const Token& Current() const { return tokens_[next_]; }
  const Token& Peek() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  void Skip() {
    if (next_ + 1 < tokens_.size()) ++next_;
  }
  bool IsOperator(absl::string_view text) const {
    return Current().kind == Token::Kind::kOperator && Current().text == text;
  }
  bool IsName(absl::string_view text) const {
    return Current().kind == Token::Kind::kName && Current().text == text;
  }
  bool SkipOperator(absl::string_view text) {
    const bool skips = IsOperator(text);
    if (skips) Skip();
    return skips;
  }
  bool SkipName(absl::string_view text) {
    const bool skips = IsName(text);
    if (skips) Skip();
    return skips;
  }
  absl::Status Error(absl::string_view message) const {
    return ErrorAt(Current().position, message);
  }
  std::string CurrentText() const {
    switch (Current().kind) {
      case Token::Kind::kEnd:
        return "the end of the template";
      case Token::Kind::kBlockEnd:
      case Token::Kind::kOutputEnd:
        return "the end of the tag";
      default:
        return absl::StrCat("'", Current().text, "'");
    }
  }
  absl::Status Expected(absl::string_view what) const {
    return Error(absl::StrCat("expected ", what, ", found ", CurrentText()));
  }
  absl::Status ExpectOperator(absl::string_view text) {
    return SkipOperator(text) ? absl::OkStatus() : Expected(absl::StrCat("'", text, "'"));
  }
  absl::Status Expect(Token::Kind kind, absl::string_view what) {
    if (Current().kind != kind) return Expected(what);
    Skip();
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> NewName() {
    if (Current().kind != Token::Kind::kName || IsOneOf(Current().text, kReserved)) {
      return Expected("a name");
    }
    std::string name = Current().text;
    Skip();
    return name;
  }

  // --- Statements.

  static Statement Make(Statement::Kind kind, Position position, std::string text = "") {
    Statement statement;
    statement.kind = kind;
    statement.position = position;
    statement.text = std::move(text);
    return statement;
  }

  // Statements up to a tag that begins with one of `ends`, which is left unread after its "{%"; up
  // to the end of the template when there are none.
  absl::StatusOr<std::vector<Statement>> Body(const std::vector<absl::string_view>& ends) {
    const Nesting nesting(*this);
    QL_RETURN_IF_ERROR(nesting.Check());
    std::vector<Statement> statements;
    while (Current().kind != Token::Kind::kEnd) {
      const Position position = Current().position;
      if (Current().kind == Token::Kind::kText) {
        statements.push_back(Make(Statement::Kind::kText, position, Current().text));
        Skip();
      } else if (Current().kind == Token::Kind::kOutputBegin) {
        Skip();
        Statement output = Make(Statement::Kind::kOutput, position);
        QL_RETURN_IF_ERROR(AddExpression(output, TupleOrExpression()));
        QL_RETURN_IF_ERROR(Expect(Token::Kind::kOutputEnd, "the end of the tag"));
        statements.push_back(std::move(output));
      } else {
        Skip();  // kBlockBegin, the only kind left outside of tags
        if (Current().kind == Token::Kind::kName && IsOneOf(Current().text, ends)) {
          return statements;
        }
        QL_RETURN_IF_ERROR(Block(statements));
      }
    }
    if (ends.empty()) return statements;
    return Expected(absl::StrCat("'", ends.back(), "'"));
  }

  absl::Status AddExpression(Statement& statement, Result expression) {
    if (!expression.ok()) return expression.status();
    statement.expressions.push_back(*std::move(expression));
    return absl::OkStatus();
  }

  absl::Status AddBranch(Statement& statement, const std::vector<absl::string_view>& ends) {
    QL_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "the end of the tag"));
    QL_ASSIGN_OR_RETURN(std::vector<Statement> body, Body(ends));
    statement.branches.push_back(std::move(body));
    return absl::OkStatus();
  }

  absl::Status Block(std::vector<Statement>& statements) {
    const Position position = Current().position;
    QL_ASSIGN_OR_RETURN(const std::string name, NewNameOrKeyword());
    if (name == "if") return If(position, statements);
    if (name == "for") return For(position, statements);
    if (name == "set") return Set(position, statements);
    if (name == "macro") return Macro(position, statements);
    if (name == "generation") return Generation(statements);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return ErrorAt(position, absl::StrCat("'", name, "' outside a loop"));
      statements.push_back(
          Make(name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, position));
      return Expect(Token::Kind::kBlockEnd, "the end of the tag");
    }
    return ErrorAt(position, absl::StrCat("the statement '", name, "' is unknown here"));
  }

  absl::StatusOr<std::string> NewNameOrKeyword() {
    if (Current().kind != Token::Kind::kName) return Expected("a statement");
    std::string name = Current().text;
    Skip();
    return name;
  }

  absl::Status If(Position position, std::vector<Statement>& statements) {
    Statement statement = Make(Statement::Kind::kIf, position);
    do {
      QL_RETURN_IF_ERROR(AddExpression(statement, TupleOrExpression()));
      QL_RETURN_IF_ERROR(AddBranch(statement, {"elif", "else", "endif"}));
    } while (SkipName("elif"));
    if (SkipName("else")) QL_RETURN_IF_ERROR(AddBranch(statement, {"endif"}));
    return End("endif", std::move(statement), statements);
  }

  absl::Status End(absl::string_view name, Statement statement,
                   std::vector<Statement>& statements) {
    if (!SkipName(name)) return Expected(absl::StrCat("'", name, "'"));
    statements.push_back(std::move(statement));
    return Expect(Token::Kind::kBlockEnd, "the end of the tag");
  }

  absl::Status For(Position position, std::vector<Statement>& statements) {
    Statement statement = Make(Statement::Kind::kFor, position);
    QL_ASSIGN_OR_RETURN(statement.targets, Targets());
    if (!SkipName("in")) return Expected("'in'");
    // An inline if would take the loop's own one: for x in xs if x.
    QL_RETURN_IF_ERROR(AddExpression(statement, TupleOrExpression(/*conditional=*/false)));
    statement.expressions.push_back(nullptr);
    if (SkipName("if")) {
      QL_ASSIGN_OR_RETURN(statement.expressions[1], Conditional());
    }
    if (IsName("recursive")) return Error("recursive loops are not supported");
    ++loops_;
    const absl::Status body = AddBranch(statement, {"else", "endfor"});
    --loops_;
    QL_RETURN_IF_ERROR(body);
    if (SkipName("else")) QL_RETURN_IF_ERROR(AddBranch(statement, {"endfor"}));
    return End("endfor", std::move(statement), statements);
  }

  // a | a, b | (a, b)
  absl::StatusOr<std::vector<std::string>> Targets() {
    const bool parenthesized = SkipOperator("(");
    std::vector<std::string> targets;
    do {
      QL_ASSIGN_OR_RETURN(std::string name, NewName());
      targets.push_back(std::move(name));
    } while (SkipOperator(",") && Current().kind == Token::Kind::kName && !IsName("in"));
    if (parenthesized) QL_RETURN_IF_ERROR(ExpectOperator(")"));
    return targets;
  }

  absl::Status Set(Position position, std::vector<Statement>& statements) {
    Statement statement = Make(Statement::Kind::kSet, position);
    QL_ASSIGN_OR_RETURN(statement.targets, Targets());
    if (statement.targets.size() == 1 && SkipOperator(".")) {
      statement.text = statement.targets[0];
      QL_ASSIGN_OR_RETURN(statement.targets[0], NewName());
    }
    if (SkipOperator("=")) {
      QL_RETURN_IF_ERROR(AddExpression(statement, TupleOrExpression()));
      statements.push_back(std::move(statement));
      return Expect(Token::Kind::kBlockEnd, "the end of the tag");
    }
    if (statement.targets.size() != 1 || !statement.text.empty()) return Expected("'='");
    statement.kind = Statement::Kind::kCapture;
    QL_RETURN_IF_ERROR(AddBranch(statement, {"endset"}));
    return End("endset", std::move(statement), statements);
  }

  absl::Status Macro(Position position, std::vector<Statement>& statements) {
    // A macro sees the template's own variables when it runs, nobody else's.
    if (loops_ > 0 || in_macro_) {
      return ErrorAt(position, "a macro inside a loop or a macro is not supported");
    }
    Statement statement = Make(Statement::Kind::kMacro, position);
    QL_ASSIGN_OR_RETURN(statement.text, NewName());
    QL_RETURN_IF_ERROR(ExpectOperator("("));
    while (!IsOperator(")")) {
      QL_ASSIGN_OR_RETURN(std::string parameter, NewName());
      statement.targets.push_back(std::move(parameter));
      statement.expressions.push_back(nullptr);
      if (SkipOperator("=")) {
        QL_ASSIGN_OR_RETURN(statement.expressions.back(), Conditional());
      } else if (statement.expressions.size() > 1 &&
                 statement.expressions[statement.expressions.size() - 2] != nullptr) {
        return Error("a parameter without a default after one with a default");
      }
      if (!SkipOperator(",")) break;
    }
    QL_RETURN_IF_ERROR(ExpectOperator(")"));
    in_macro_ = true;
    const absl::Status body = AddBranch(statement, {"endmacro"});
    in_macro_ = false;
    QL_RETURN_IF_ERROR(body);
    return End("endmacro", std::move(statement), statements);
  }

  // {% generation %} marks what the assistant wrote, for training; it does not change the text.
  absl::Status Generation(std::vector<Statement>& statements) {
    QL_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "the end of the tag"));
    QL_ASSIGN_OR_RETURN(std::vector<Statement> body, Body({"endgeneration"}));
    std::move(body.begin(), body.end(), std::back_inserter(statements));
    Skip();
    return Expect(Token::Kind::kBlockEnd, "the end of the tag");
  }

  // --- Expressions, from what binds loosest to what binds tightest.

  static ExpressionPtr Make(Kind kind, Position position) {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->position = position;
    return expression;
  }

  // Adds a child, which may be null, and keeps account of the height.
  absl::Status Adopt(Expression& parent, Result child) {
    if (!child.ok()) return child.status();
    if (*child != nullptr) QL_RETURN_IF_ERROR(Grow(parent, **child));
    parent.children.push_back(*std::move(child));
    return absl::OkStatus();
  }

  absl::Status Grow(Expression& parent, const Expression& child) {
    parent.height = std::max(parent.height, child.height + 1);
    if (parent.height > kMaxHeight) return ErrorAt(parent.position, "nested too deeply");
    return absl::OkStatus();
  }

  // `left` and the right operand that `parse` reads, under a new node.
  Result Combine(Kind kind, Position position, ExpressionPtr left, Result right) {
    ExpressionPtr node = Make(kind, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(left)));
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(right)));
    return node;
  }

  Result TupleOrExpression(bool conditional = true) {
    const Position position = Current().position;
    QL_ASSIGN_OR_RETURN(ExpressionPtr first, conditional ? Conditional() : Or());
    if (!IsOperator(",")) return first;
    ExpressionPtr tuple = Make(Kind::kTuple, position);
    QL_RETURN_IF_ERROR(Adopt(*tuple, std::move(first)));
    while (SkipOperator(",")) {
      if (EndsTuple()) break;
      QL_RETURN_IF_ERROR(Adopt(*tuple, conditional ? Conditional() : Or()));
    }
    return tuple;
  }

  bool EndsTuple() const {
    return Current().kind == Token::Kind::kBlockEnd || Current().kind == Token::Kind::kOutputEnd ||
           IsOperator(")");
  }

  Result Conditional() {
    const Nesting nesting(*this);
    QL_RETURN_IF_ERROR(nesting.Check());
    QL_ASSIGN_OR_RETURN(ExpressionPtr value, Or());
    while (IsName("if")) {
      ExpressionPtr node = Make(Kind::kConditional, Current().position);
      Skip();
      QL_RETURN_IF_ERROR(Adopt(*node, std::move(value)));
      QL_RETURN_IF_ERROR(Adopt(*node, Or()));
      QL_RETURN_IF_ERROR(Adopt(*node, SkipName("else") ? Conditional() : Result(nullptr)));
      value = std::move(node);
    }
    return value;
  }

  Result Or() {
    QL_ASSIGN_OR_RETURN(ExpressionPtr left, And());
    while (IsName("or")) {
      const Position position = Current().position;
      Skip();
      QL_ASSIGN_OR_RETURN(left, Combine(Kind::kOr, position, std::move(left), And()));
    }
    return left;
  }

  Result And() {
    QL_ASSIGN_OR_RETURN(ExpressionPtr left, Not());
    while (IsName("and")) {
      const Position position = Current().position;
      Skip();
      QL_ASSIGN_OR_RETURN(left, Combine(Kind::kAnd, position, std::move(left), Not()));
    }
    return left;
  }

  Result Not() {
    if (!IsName("not")) return Comparison();
    const Nesting nesting(*this);
    QL_RETURN_IF_ERROR(nesting.Check());
    ExpressionPtr node = Make(Kind::kNot, Current().position);
    Skip();
    QL_RETURN_IF_ERROR(Adopt(*node, Not()));
    return node;
  }

  // The comparison operator here, consumed; empty when there is none.
  std::string SkipComparisonOperator() {
    constexpr absl::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    std::string text = Current().text;
    if (Current().kind == Token::Kind::kOperator && IsOneOf(text, kOperators)) {
      Skip();
      return text;
    }
    if (SkipName("in")) return "in";
    if (IsName("not") && Peek().kind == Token::Kind::kName && Peek().text == "in") {
      Skip();
      Skip();
      return "not in";
    }
    return "";
  }

  Result Comparison() {
    const Position position = Current().position;
    QL_ASSIGN_OR_RETURN(ExpressionPtr first, Additive());
    std::string op = SkipComparisonOperator();
    if (op.empty()) return first;
    ExpressionPtr node = Make(Kind::kComparison, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(first)));
    while (!op.empty()) {
      node->operators.push_back(std::move(op));
      QL_RETURN_IF_ERROR(Adopt(*node, Additive()));
      op = SkipComparisonOperator();
    }
    return node;
  }

  template <size_t kCount>
  Result Arithmetic(const absl::string_view (&operators)[kCount], Result (Parser::*operand)()) {
    QL_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*operand)());
    while (Current().kind == Token::Kind::kOperator && IsOneOf(Current().text, operators)) {
      const Token op = Current();
      Skip();
      QL_ASSIGN_OR_RETURN(
          left, Combine(Kind::kArithmetic, op.position, std::move(left), (this->*operand)()));
      left->operators.push_back(op.text);
    }
    return left;
  }

  Result Additive() {
    static constexpr absl::string_view kOperators[] = {"+", "-"};
    return Arithmetic(kOperators, &Parser::Concatenation);
  }

  Result Concatenation() {
    const Position position = Current().position;
    QL_ASSIGN_OR_RETURN(ExpressionPtr first, Multiplicative());
    if (!IsOperator("~")) return first;
    ExpressionPtr node = Make(Kind::kConcatenate, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(first)));
    while (SkipOperator("~")) QL_RETURN_IF_ERROR(Adopt(*node, Multiplicative()));
    return node;
  }

  Result Multiplicative() {
    static constexpr absl::string_view kOperators[] = {"*", "/", "//", "%"};
    return Arithmetic(kOperators, &Parser::Power);
  }

  Result Power() {
    static constexpr absl::string_view kOperators[] = {"**"};
    return Arithmetic(kOperators, &Parser::UnaryWithFilters);
  }

  Result UnaryWithFilters() { return Unary(/*filters=*/true); }

  // As in Jinja a filter takes the signed number: -1 | abs is 1.
  Result Unary(bool filters) {
    const Nesting nesting(*this);
    QL_RETURN_IF_ERROR(nesting.Check());
    ExpressionPtr node;
    if (IsOperator("-") || IsOperator("+")) {
      node = Make(IsOperator("-") ? Kind::kNegate : Kind::kPlus, Current().position);
      Skip();
      QL_RETURN_IF_ERROR(Adopt(*node, Unary(/*filters=*/false)));
    } else {
      QL_ASSIGN_OR_RETURN(node, Primary());
    }
    QL_ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
    return filters ? FiltersAndTests(std::move(node)) : Result(std::move(node));
  }

  Result Primary() {
    const Token token = Current();
    switch (token.kind) {
      case Token::Kind::kName:
        return NameOrConstant();
      case Token::Kind::kString:
        return StringLiteral();
      case Token::Kind::kInteger:
        Skip();
        return Literal(token.position, Value(token.integer));
      case Token::Kind::kFloat:
        Skip();
        return Literal(token.position, Value(token.real));
      default:
        break;
    }
    if (SkipOperator("(")) return Parenthesized(token.position);
    if (SkipOperator("[")) return ListLiteral(token.position);
    if (SkipOperator("{")) return DictLiteral(token.position);
    return Expected("an expression");
  }

  static ExpressionPtr Literal(Position position, Value value) {
    ExpressionPtr node = Make(Kind::kLiteral, position);
    node->literal = std::move(value);
    return node;
  }

  Result NameOrConstant() {
    const Position position = Current().position;
    QL_ASSIGN_OR_RETURN(std::string name, NewName());
    if (name == "true" || name == "True") return Literal(position, Value(true));
    if (name == "false" || name == "False") return Literal(position, Value(false));
    if (name == "none" || name == "None") return Literal(position, Value());
    ExpressionPtr node = Make(Kind::kName, position);
    node->name = std::move(name);
    return node;
  }

  Result StringLiteral() {
    const Position position = Current().position;
    std::string text;
    while (Current().kind == Token::Kind::kString) {
      text += Current().text;
      Skip();
    }
    return Literal(position, Value(std::move(text)));
  }

  Result Parenthesized(Position position) {
    if (SkipOperator(")")) return Make(Kind::kTuple, position);
    QL_ASSIGN_OR_RETURN(ExpressionPtr inside, TupleOrExpression());
    QL_RETURN_IF_ERROR(ExpectOperator(")"));
    return inside;
  }

  Result ListLiteral(Position position) {
    ExpressionPtr node = Make(Kind::kList, position);
    while (!IsOperator("]")) {
      QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
      if (!SkipOperator(",")) break;
    }
    QL_RETURN_IF_ERROR(ExpectOperator("]"));
    return node;
  }

  Result DictLiteral(Position position) {
    ExpressionPtr node = Make(Kind::kDict, position);
    while (!IsOperator("}")) {
      QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
      QL_RETURN_IF_ERROR(ExpectOperator(":"));
      QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
      if (!SkipOperator(",")) break;
    }
    QL_RETURN_IF_ERROR(ExpectOperator("}"));
    return node;
  }

  Result Postfix(ExpressionPtr node) {
    while (true) {
      const Position position = Current().position;
      if (SkipOperator(".")) {
        QL_ASSIGN_OR_RETURN(node, Attribute(position, std::move(node)));
      } else if (SkipOperator("[")) {
        QL_ASSIGN_OR_RETURN(node, Subscript(position, std::move(node)));
      } else if (SkipOperator("(")) {
        QL_ASSIGN_OR_RETURN(node, Call(Kind::kCall, position, std::move(node)));
      } else {
        return node;
      }
    }
  }

  Result Attribute(Position position, ExpressionPtr object) {
    if (Current().kind == Token::Kind::kInteger) {
      const int64_t index = Current().integer;
      Skip();
      return Combine(Kind::kIndex, position, std::move(object),
                     Result(Literal(position, Value(index))));
    }
    ExpressionPtr node = Make(Kind::kAttribute, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(object)));
    QL_ASSIGN_OR_RETURN(node->name, NewNameOrKeyword());
    return node;
  }

  // object[index] or object[start:stop:step], after its "[".
  Result Subscript(Position position, ExpressionPtr object) {
    ExpressionPtr node = Make(Kind::kIndex, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(object)));
    const auto part = [&]() -> Result {
      if (IsOperator(":") || IsOperator("]")) return nullptr;
      return Conditional();
    };
    if (IsOperator("]")) return Expected("an index");
    QL_RETURN_IF_ERROR(Adopt(*node, part()));
    while (SkipOperator(":") && node->children.size() < 4) {
      node->kind = Kind::kSlice;
      QL_RETURN_IF_ERROR(Adopt(*node, part()));
    }
    if (node->kind == Kind::kSlice) node->children.resize(4);
    QL_RETURN_IF_ERROR(ExpectOperator("]"));
    return node;
  }

  // Arguments after the "(" of a call, a filter or a test of `subject`.
  Result Call(Kind kind, Position position, ExpressionPtr subject) {
    ExpressionPtr node = Make(kind, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(subject)));
    while (!IsOperator(")")) {
      if (IsOperator("*") || IsOperator("**")) return Error("unpacking arguments is not supported");
      const bool keyword = Current().kind == Token::Kind::kName &&
                           Peek().kind == Token::Kind::kOperator && Peek().text == "=";
      if (keyword) {
        std::string name = Current().text;
        Skip();
        Skip();
        QL_ASSIGN_OR_RETURN(ExpressionPtr value, Conditional());
        QL_RETURN_IF_ERROR(Grow(*node, *value));
        node->keywords.emplace_back(std::move(name), std::move(value));
      } else if (!node->keywords.empty()) {
        return Error("a positional argument after a keyword argument");
      } else {
        QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
      }
      if (!SkipOperator(",")) break;
    }
    QL_RETURN_IF_ERROR(ExpectOperator(")"));
    return node;
  }

  Result FiltersAndTests(ExpressionPtr node) {
    while (true) {
      const Position position = Current().position;
      if (SkipOperator("|")) {
        QL_ASSIGN_OR_RETURN(node, Filter(position, std::move(node)));
      } else if (SkipName("is")) {
        QL_ASSIGN_OR_RETURN(node, Test(position, std::move(node)));
      } else if (SkipOperator("(")) {
        QL_ASSIGN_OR_RETURN(node, Call(Kind::kCall, position, std::move(node)));
      } else {
        return node;
      }
    }
  }

  Result Filter(Position position, ExpressionPtr value) {
    QL_ASSIGN_OR_RETURN(std::string name, NewNameOrKeyword());
    if (!IsFilter(name)) {
      return ErrorAt(position, absl::StrCat("the filter '", name, "' is unknown here"));
    }
    ExpressionPtr node;
    if (SkipOperator("(")) {
      QL_ASSIGN_OR_RETURN(node, Call(Kind::kFilter, position, std::move(value)));
    } else {
      node = Make(Kind::kFilter, position);
      QL_RETURN_IF_ERROR(Adopt(*node, std::move(value)));
    }
    node->name = std::move(name);
    return node;
  }

  // is name | is not name | is name(arguments) | is name argument
  Result Test(Position position, ExpressionPtr value) {
    const bool negated = SkipName("not");
    QL_ASSIGN_OR_RETURN(std::string name, NewNameOrKeyword());
    if (!IsTest(name)) {
      return ErrorAt(position, absl::StrCat("the test '", name, "' is unknown here"));
    }
    ExpressionPtr node;
    if (SkipOperator("(")) {
      QL_ASSIGN_OR_RETURN(node, Call(Kind::kTest, position, std::move(value)));
    } else {
      node = Make(Kind::kTest, position);
      QL_RETURN_IF_ERROR(Adopt(*node, std::move(value)));
      if (StartsTestArgument()) {
        QL_ASSIGN_OR_RETURN(ExpressionPtr argument, Primary());
        QL_RETURN_IF_ERROR(Adopt(*node, Postfix(std::move(argument))));
      }
    }
    node->name = std::move(name);
    if (!negated) return node;
    ExpressionPtr inverse = Make(Kind::kNot, position);
    QL_RETURN_IF_ERROR(Adopt(*inverse, std::move(node)));
    return inverse;
  }

  bool StartsTestArgument() const {
    switch (Current().kind) {
      case Token::Kind::kName:
        return !IsOneOf(Current().text, kReserved);
      case Token::Kind::kString:
      case Token::Kind::kInteger:
      case Token::Kind::kFloat:
        return true;
      default:
        return IsOperator("[") || IsOperator("{");
    }
  }

  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
  int loops_ = 0;  // for statements around
  bool in_macro_ = false;
};

}  // namespace

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source) {
  QL_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace quantloom::jinja
