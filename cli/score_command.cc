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
#include "cli/score_evaluation.h"
#include "cli/score_progress.h"
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

constexpr char kScoreFooter[] =
    "The text is cut into windows without overlap; each is scored on its own, and the tokens of "
    "its second\n"
    "half count. `quantize --evaluate` measures in the same way.\n\n"
    "Without --source the server's model gives the perplexity. With it the quantizer runs source "
    "and packed\n"
    "model side by side: perplexity of both, KL divergence (mean and 99th percentile), and how "
    "often both find\n"
    "the same token the most likely. With --state a run that was stopped, by Ctrl-C or a lost "
    "connection, goes on\n"
    "when the command is repeated, and ends with the same figures.\n\n"
    "Examples:\n"
    "  quantloom score wikitext.txt --windows 40\n"
    "  quantloom score book.txt --model smollm2-2bit --json | jq .perplexity\n"
    "  quantloom score wikitext.txt --model smollm2-2bit --source SmolLM2-135M --state "
    "score.jsonl\n";
constexpr size_t kDefaultWindowTokens = 512;
// Of text in one Tokenize call: well below the largest prompt and message that servers accept by
// default.
constexpr size_t kPieceBytes = size_t{256} << 10;

size_t WindowTokens(const ScoreArguments& arguments) {
  return arguments.window_tokens == 0 ? kDefaultWindowTokens : arguments.window_tokens;
}

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
  const size_t limit = size_t{arguments.windows} * WindowTokens(arguments);
  const auto enough = [&] { return limit > 0 && ids.size() >= limit; };
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

CommandResult RunPerplexity(Session& session, const ScoreArguments& arguments) {
  const absl::StatusOr<std::vector<int32_t>> ids = TokenizeFile(session, arguments);
  if (!ids.ok()) return ids.status();
  const absl::StatusOr<ScoreWindows> windows =
      ScoreWindows::Split(ids->size(), WindowTokens(arguments), arguments.windows);
  if (!windows.ok()) return windows.status();

  Perplexity perplexity;
  ScoreProgress progress(session);
  for (size_t window = 0; window < windows->count; ++window) {
    progress.Show(window, windows->count,
                  perplexity.tokens() == 0
                      ? ""
                      : absl::StrFormat("perplexity %.3f", perplexity.perplexity()));
    ScoreRequest request;
    request.set_model(arguments.model);
    const auto begin = ids->begin() + static_cast<std::ptrdiff_t>(windows->Begin(window));
    request.mutable_tokens()->mutable_ids()->Add(
        begin, begin + static_cast<std::ptrdiff_t>(windows->window_tokens));
    const absl::StatusOr<ScoreResponse> response = session.connection().Call(
        session.connection().generation(), &GenerationService::Stub::Score, request);
    if (!response.ok()) return response.status();
    if (absl::Status status = perplexity.Add(*windows, *response); !status.ok()) return status;
  }
  progress.End();
  ShowResult(session, arguments, *windows, perplexity);
  return ExitCode::kOk;
}

void AddEvaluationOptions(CLI::App& command, ScoreArguments& arguments, CLI::Option* file,
                          CLI::Option* model) {
  CLI::Option* source =
      command
          .add_option("--source", arguments.source,
                      "Compare with this model under the quantizer's source root; --model is then "
                      "the output of a quantization")
          ->type_name("SOURCE")
          ->needs(model);
  command
      .add_option("--state", arguments.state_file,
                  "Keep what is scored in this file: the same command goes on where it was stopped")
      ->type_name("FILE")
      ->needs(source);
  command
      .add_option("--text-path", arguments.text_path,
                  "Instead of FILE: a text under the quantizer's source root")
      ->type_name("PATH")
      ->needs(source)
      ->excludes(file);
}

}  // namespace

void AddScoreCommand(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<ScoreArguments>();
  CLI::App* command =
      app.add_subcommand("score", "Perplexity of a model on a text, or its distance to its source");
  command->footer(kScoreFooter);
  CLI::Option* file =
      command->add_option("FILE", arguments->file, "Text, UTF-8; - for standard input")
          ->option_text(" ");
  CLI::Option* model =
      command
          ->add_option("-m,--model", arguments->model,
                       "Model that scores [the one that is loaded, if it is only one]")
          ->type_name("NAME");
  command->add_option("--windows", arguments->windows, "Windows from the text's start [all]")
      ->type_name("N");
  command->add_option("--window-tokens", arguments->window_tokens, "Tokens in a window [512]")
      ->check(CLI::Range(2, 1 << 20))
      ->option_text("N");
  AddEvaluationOptions(*command, *arguments, file, model);
  command->callback([&session, arguments] {
    if (arguments->file.empty() && arguments->text_path.empty()) throw CLI::RequiredError("FILE");
    session.command = [&session, arguments] {
      return arguments->source.empty() ? RunPerplexity(session, *arguments)
                                       : RunEvaluation(session, *arguments);
    };
  });
}

}  // namespace quantloom::cli
