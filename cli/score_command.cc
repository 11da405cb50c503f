// quantloom score
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/local_text.h"
#include "cli/progress.h"
#include "cli/score_windows.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/text_pieces.h"
#include "cli/units.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {

using ::quantloom::v1::GenerationService;
using ::quantloom::v1::ScoreRequest;
using ::quantloom::v1::ScoreResponse;
using ::quantloom::v1::TokenizeRequest;
using ::quantloom::v1::TokenizeResponse;

namespace {

constexpr size_t kDefaultWindowTokens = 512;
// Of text in one Tokenize call: well below the largest prompt and message that servers accept by
// default.
constexpr size_t kPieceBytes = size_t{256} << 10;
constexpr absl::Duration kRedraw = absl::Milliseconds(100);

struct ScoreArguments {
  std::string file;
  std::string model;
  size_t windows = 0;
  size_t window_tokens = kDefaultWindowTokens;
};

// Token ids of the file's text: all of them, or as many as the windows that were asked for need.
absl::StatusOr<std::vector<int32_t>> TokenizeFile(Session& session,
                                                  const ScoreArguments& arguments) {
  const absl::StatusOr<std::string> text =
      ReadText(arguments.file, std::numeric_limits<size_t>::max());
  if (!text.ok()) return text.status();
  std::vector<int32_t> ids;
  TokenizeRequest request;
  request.set_model(arguments.model);
  request.set_add_bos(true);  // where the model's configuration says so
  const auto enough = [&] {
    return arguments.windows > 0 && ids.size() / arguments.window_tokens >= arguments.windows;
  };
  for (std::string_view rest = *text; !rest.empty() && !enough();) {
    const std::string_view piece = FirstPiece(rest, kPieceBytes);
    rest.remove_prefix(piece.size());
    request.set_text(std::string(piece));
    const absl::StatusOr<TokenizeResponse> response = session.connection().Call(
        session.connection().generation(), &GenerationService::Stub::Tokenize, request);
    if (!response.ok()) return response.status();
    ids.insert(ids.end(), response->ids().begin(), response->ids().end());
    request.set_add_bos(false);
  }
  return ids;
}

// A bar while the windows are scored; nothing where standard error is no terminal.
class ScoreProgress {
 public:
  explicit ScoreProgress(Session& session) : console_(session.console()), shown_(!session.json()) {}

  void Show(size_t done, size_t count, const Perplexity& perplexity) {
    const absl::Time now = absl::Now();
    if (!shown_ || !console_.err_is_terminal() || now - last_ < kRedraw) return;
    last_ = now;
    std::string line = absl::StrFormat("scoring %zu/%zu ", done, count);
    if (perplexity.tokens() > 0) {
      absl::StrAppendFormat(&line, " perplexity %.3f ", perplexity.perplexity());
      const absl::Duration left =
          (now - start_) / static_cast<double>(done) * static_cast<double>(count - done);
      absl::StrAppend(&line, " ETA ", FormatElapsed(absl::Ceil(left, absl::Seconds(1))), " ");
    }
    const int bar = std::min(32, console_.width() - 1 - static_cast<int>(line.size()));
    if (bar >= 8) {
      line += RenderBar(static_cast<double>(done) / static_cast<double>(count), bar,
                        console_.unicode());
    }
    console_.ShowLive(line.substr(0, bar >= 8 ? std::string::npos : console_.width() - 1));
  }

  void End() { console_.ClearLive(); }

 private:
  Console& console_;
  bool shown_;
  absl::Time start_ = absl::Now();
  absl::Time last_ = absl::InfinitePast();
};

void ShowResult(Session& session, const ScoreArguments& arguments, const ScoreWindows& windows,
                const Perplexity& perplexity) {
  if (session.json()) {
    const nlohmann::ordered_json json = {{"perplexity", perplexity.perplexity()},
                                         {"standard_error", perplexity.standard_error()},
                                         {"nats_per_token", perplexity.mean()},
                                         {"scored_tokens", perplexity.tokens()},
                                         {"windows", windows.count},
                                         {"window_tokens", windows.window_tokens}};
    session.console().Out(json.dump() + "\n");
    return;
  }
  session.console().Out(RenderPairs({
      {"text", arguments.file},
      {"scored", absl::StrFormat("%s tokens: the second halves of %s windows of %s",
                                 FormatGrouped(perplexity.tokens()), FormatGrouped(windows.count),
                                 FormatGrouped(windows.window_tokens))},
      {"perplexity",
       absl::StrFormat("%.4f +/- %.4f", perplexity.perplexity(), perplexity.standard_error())},
      {"nats/token", absl::StrFormat("%.5f", perplexity.mean())},
  }));
}

CommandResult RunScore(Session& session, const ScoreArguments& arguments) {
  const absl::StatusOr<std::vector<int32_t>> ids = TokenizeFile(session, arguments);
  if (!ids.ok()) return ids.status();
  const absl::StatusOr<ScoreWindows> windows =
      ScoreWindows::Split(ids->size(), arguments.window_tokens, arguments.windows);
  if (!windows.ok()) return windows.status();

  Perplexity perplexity;
  ScoreProgress progress(session);
  for (size_t window = 0; window < windows->count; ++window) {
    progress.Show(window, windows->count, perplexity);
    ScoreRequest request;
    request.set_model(arguments.model);
    const auto begin = ids->begin() + static_cast<std::ptrdiff_t>(windows->Begin(window));
    request.mutable_tokens()->mutable_ids()->Add(
        begin, begin + static_cast<std::ptrdiff_t>(windows->window_tokens));
    const absl::StatusOr<ScoreResponse> response = session.connection().Call(
        session.connection().generation(), &GenerationService::Stub::Score, request);
    absl::Status status = response.status();
    if (status.ok()) status = perplexity.Add(*windows, *response);
    if (!status.ok()) {
      progress.End();
      return status;
    }
  }
  progress.End();
  ShowResult(session, arguments, *windows, perplexity);
  return ExitCode::kOk;
}

}  // namespace

void AddScoreCommand(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<ScoreArguments>();
  CLI::App* command = app.add_subcommand("score", "Perplexity of a model on a text file");
  command->footer(
      "The text is cut into windows without overlap; each is scored on its own, and the tokens "
      "of its second\n"
      "half count. `quantize --evaluate` measures in the same way.\n\n"
      "Examples:\n"
      "  quantloom score wikitext.txt --windows 40\n"
      "  quantloom score book.txt --model smollm2-2bit --json | jq .perplexity\n");
  command->add_option("FILE", arguments->file, "Text, UTF-8; - for standard input")
      ->required()
      ->option_text(" ");
  command
      ->add_option("-m,--model", arguments->model,
                   "Model that scores [the one that is loaded, if it is only one]")
      ->type_name("NAME");
  command->add_option("--windows", arguments->windows, "Windows from the text's start [all]")
      ->type_name("N");
  command->add_option("--window-tokens", arguments->window_tokens, "Tokens in a window [512]")
      ->check(CLI::Range(2, 1 << 20))
      ->option_text("N");
  command->callback([&session, arguments] {
    session.command = [&session, arguments] { return RunScore(session, *arguments); };
  });
}

}  // namespace quantloom::cli
