#include "cli/score_evaluation.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/evaluation_state.h"
#include "cli/local_text.h"
#include "cli/quality.h"
#include "cli/score_progress.h"
#include "cli/table.h"
#include "cli/units.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {

using ::quantloom::v1::EvaluateRequest;
using ::quantloom::v1::EvaluateResponse;
using ::quantloom::v1::EvaluationPlan;
using ::quantloom::v1::EvaluationWindow;
using ::quantloom::v1::QualityMetrics;

namespace {

absl::StatusOr<EvaluateRequest> MakeRequest(const ScoreArguments& arguments) {
  EvaluateRequest request;
  request.set_source(arguments.source);
  request.set_model(arguments.model);
  quantloom::v1::Evaluation& evaluation = *request.mutable_evaluation();
  evaluation.set_windows(arguments.windows);
  evaluation.set_window_tokens(arguments.window_tokens);
  if (!arguments.text_path.empty()) {
    evaluation.set_path(arguments.text_path);
    return request;
  }
  absl::StatusOr<std::string> text = ReadInlineText(arguments.file, "--text-path");
  if (!text.ok()) return text.status();
  evaluation.set_inline_text(*std::move(text));
  return request;
}

// The divergence so far, for the line of progress.
class RunningKl {
 public:
  explicit RunningKl(const std::vector<EvaluationWindow>& windows) {
    for (const EvaluationWindow& window : windows) Add(window);
  }
  void Add(const EvaluationWindow& window) {
    for (const double kl : window.kl()) sum_ += kl;
    positions_ += window.kl_size();
  }
  std::string Text() const {
    return positions_ == 0 ? ""
                           : absl::StrFormat("KL %.4f", sum_ / static_cast<double>(positions_));
  }

 private:
  double sum_ = 0;
  int64_t positions_ = 0;
};

// One call, from the first window that the state lacks to the last.
absl::Status ScoreTheRest(Connection& connection, EvaluateRequest request, EvaluationState& state,
                          ScoreProgress& progress) {
  grpc::ClientContext context;
  SetDeadline(context, connection.Deadline(absl::InfiniteDuration()));
  const Cancellation::Call scope(connection.cancellation(), context);
  request.set_first_window(static_cast<uint32_t>(state.windows().size()));
  progress.Prepare("loading source and packed model");
  RunningKl kl(state.windows());
  const auto reader = connection.quantization().Evaluate(&context, request);
  EvaluateResponse response;
  absl::Status status;
  bool planned = false;
  while (status.ok() && reader->Read(&response)) {
    if (response.has_plan()) {
      planned = true;
      status = state.AddPlan(response.plan());
    } else {
      status = state.AddWindow(response.window());
      kl.Add(response.window());
    }
    if (status.ok()) progress.Show(state.windows().size(), state.plan().windows(), kl.Text());
  }
  if (!status.ok()) context.TryCancel();  // nothing that the service still has to say matters
  const grpc::Status finished = reader->Finish();
  if (!status.ok()) return status;
  if (!finished.ok()) return FromGrpc(finished);
  if (planned && state.windows().size() >= state.plan().windows()) return absl::OkStatus();
  return absl::UnavailableError("the stream ended before the last window");
}

void ShowResult(Session& session, const ScoreArguments& arguments, const EvaluationState& state) {
  const EvaluationPlan& plan = state.plan();
  // An earlier run may have scored more.
  const auto windows = absl::MakeConstSpan(state.windows()).subspan(0, plan.windows());
  QualityMetrics quality = Summarize(windows);
  quality.set_text_name(!arguments.text_path.empty() ? arguments.text_path
                        : arguments.file == "-"      ? "standard input"
                                                     : arguments.file);
  if (session.json()) {
    const nlohmann::ordered_json json = {{"perplexity_source", quality.perplexity_source()},
                                         {"perplexity_packed", quality.perplexity_packed()},
                                         {"kl_mean", quality.kl_mean()},
                                         {"kl_p99", quality.kl_p99()},
                                         {"top1_agreement", quality.top1_agreement()},
                                         {"scored_tokens", quality.scored_tokens()},
                                         {"windows", plan.windows()},
                                         {"window_tokens", plan.window_tokens()},
                                         {"recipe", plan.recipe()},
                                         {"linear_bits_per_weight", plan.linear_bits_per_weight()},
                                         {"bits_per_weight", plan.bits_per_weight()},
                                         {"source_sha256", plan.source_sha256()},
                                         {"model_sha256", plan.model_sha256()},
                                         {"text_sha256", plan.text_sha256()}};
    session.console().Out(json.dump() + "\n");
    return;
  }
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"source", arguments.source},
      {"model", arguments.model},
      {"recipe", plan.recipe()},
      {"bits/weight", FormatBitsPerWeight(plan.linear_bits_per_weight(), plan.bits_per_weight())}};
  AddQuality(quality, pairs);
  session.console().Out(RenderPairs(pairs));
}

// Tells whoever was stopped in the middle what is left of the work.
void NoteUnfinished(Session& session, const ScoreArguments& arguments,
                    const EvaluationState& state) {
  const size_t done = state.windows().size();
  if (done == 0) return;
  const std::string scored = absl::StrCat(FormatGrouped(done), done == 1 ? " window" : " windows");
  session.Note(arguments.state_file.empty()
                   ? absl::StrCat(scored, " were scored in vain; --state FILE keeps them.")
                   : absl::StrCat(scored, " are kept in '", arguments.state_file,
                                  "'. The same command goes on from there."));
}

}  // namespace

CommandResult RunEvaluation(Session& session, const ScoreArguments& arguments) {
  const absl::StatusOr<EvaluateRequest> request = MakeRequest(arguments);
  if (!request.ok()) return request.status();
  const auto state = EvaluationState::Open(arguments.state_file);
  if (!state.ok()) return state.status();
  Connection& connection = session.connection();
  CatchInterrupts();
  const InterruptScope interrupts([&] { connection.cancellation().Cancel(); });
  absl::Status status;
  {
    ScoreProgress progress(session);
    // Each try goes on where the one before ended.
    status = connection.Retry(
        Service::kQuantizer, [&] { return ScoreTheRest(connection, *request, **state, progress); });
  }
  if (status.ok()) {
    ShowResult(session, arguments, **state);
    return ExitCode::kOk;
  }
  // A state that is not of this evaluation is not gone on with.
  if (!absl::IsFailedPrecondition(status)) NoteUnfinished(session, arguments, **state);
  if (connection.cancellation().cancelled()) return ExitCode::kInterrupted;
  return status;
}

}  // namespace quantloom::cli
