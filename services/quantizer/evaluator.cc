#include "services/quantizer/evaluator.h"

#include <algorithm>
#include <filesystem>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/source_model.h"
#include "engine/loaded_model.h"
#include "engine/quantize/evaluation.h"
#include "services/common/access_interceptor.h"
#include "services/common/logging.h"
#include "services/common/message_bytes.h"
#include "services/common/rpc_status.h"
#include "services/quantizer/quantize_request.h"

namespace quantloom {
namespace {

constexpr size_t kMaxWaiting = 16;
// What a client is told when that many wait: evaluations take minutes.
constexpr absl::Duration kBusyRetryDelay = absl::Seconds(30);

absl::Status StoppingStatus() { return absl::UnavailableError("the service is stopping"); }

absl::StatusOr<std::filesystem::path> ResolveModel(const std::string& name,
                                                   const ConfinedRoot& model_root) {
  if (name.empty()) return InvalidField("model", "is required");
  QL_RETURN_IF_ERROR(WithField(CheckName(name), "model"));
  absl::StatusOr<std::filesystem::path> path = model_root.Resolve(name);
  if (!path.ok()) return WithField(path.status(), "model");
  return path;
}

// Both models in memory, and what the plan says of them.
struct ModelPair {
  std::shared_ptr<const LoadedModel> source;
  std::shared_ptr<const LoadedModel> packed;
  v1::EvaluationPlan plan;
};

absl::Status LoadPacked(const std::filesystem::path& path, ThreadTeam& team, ModelPair& models) {
  QL_ASSIGN_OR_RETURN(models.packed, LoadedModel::LoadPacked(path, Verify::kFull, team));
  const PackedManifest& manifest = *models.packed->manifest();
  models.plan.set_recipe(manifest.recipe);
  models.plan.set_linear_bits_per_weight(manifest.linear_bits_per_weight);
  models.plan.set_bits_per_weight(manifest.bits_per_weight);
  return absl::OkStatus();
}

absl::Status LoadSource(const SourceModel& source, ThreadTeam& team, ModelPair& models) {
  QL_ASSIGN_OR_RETURN(*models.plan.mutable_source_sha256(), source.Digest());
  QL_ASSIGN_OR_RETURN(models.source, LoadedModel::LoadSource(source, team));
  return absl::OkStatus();
}

// What can be refused early is: the source's weights, which take longest, are read last.
absl::StatusOr<ModelPair> Load(const std::filesystem::path& source_path,
                               const std::filesystem::path& model_path, uint32_t window_tokens,
                               ThreadTeam& team, EvaluationCall& call) {
  ModelPair models;
  const auto source = SourceModel::Open(source_path);
  if (!source.ok()) return WithField(source.status(), "source");
  QL_RETURN_IF_ERROR(WithField(LoadPacked(model_path, team, models), "model"));
  const uint64_t context =
      std::min((*source)->config().max_position, models.packed->config().max_position);
  const absl::StatusOr<uint32_t> resolved = ResolveWindowTokens(window_tokens, context);
  if (!resolved.ok()) return WithField(resolved.status(), "evaluation.window_tokens");
  models.plan.set_window_tokens(*resolved);
  QL_RETURN_IF_ERROR(call.Wanted());
  QL_RETURN_IF_ERROR(WithField(LoadSource(**source, team, models), "source"));
  return models;
}

v1::EvaluateResponse WindowMessage(uint32_t index, const WindowMetrics& metrics) {
  v1::EvaluateResponse response;
  v1::EvaluationWindow& window = *response.mutable_window();
  window.set_index(index);
  window.set_scored_tokens(static_cast<uint32_t>(metrics.kl.size()));
  window.set_nll_source(metrics.nll_source);
  window.set_nll_packed(metrics.nll_packed);
  window.mutable_kl()->Add(metrics.kl.begin(), metrics.kl.end());
  window.set_same_top1(metrics.same_top1);
  return response;
}

}  // namespace

Evaluator::Evaluator(Options options, ConfinedRoot source_root, ConfinedRoot model_root)
    : options_(options),
      source_root_(std::move(source_root)),
      model_root_(std::move(model_root)),
      publisher_(model_root_.path()),
      pool_(options.max_running, kMaxWaiting) {}

bool Evaluator::Remember(const std::shared_ptr<EvaluationCall>& call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(
      std::remove_if(calls_.begin(), calls_.end(), [](const auto& weak) { return weak.expired(); }),
      calls_.end());
  calls_.push_back(call);
  return !stopped_;
}

void Evaluator::Stop() {
  std::vector<std::weak_ptr<EvaluationCall>> calls;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    calls.swap(calls_);
  }
  for (const auto& weak : calls) {
    if (const auto call = weak.lock()) call->End(StoppingStatus());
  }
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* Evaluator::Start(
    const grpc::CallbackServerContext& context, const grpc::ByteBuffer& bytes) {
  const std::shared_ptr<EvaluationCall> call = EvaluationCall::Start(context);
  const auto request = std::make_shared<v1::EvaluateRequest>();
  if (const absl::StatusOr<Caller> caller = CallerOf(context); !caller.ok()) {
    call->End(caller.status());
  } else if (!Remember(call)) {
    call->End(StoppingStatus());
  } else if (const absl::Status parsed = DecodeMessage(bytes, *request); !parsed.ok()) {
    call->End(parsed);
  } else if (!pool_.TryRun([this, call, request] { Run(*request, *call); })) {
    call->End(WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat(kMaxWaiting, " evaluations wait already")),
        kBusyRetryDelay));
  }
  return call.get();
}

void Evaluator::Run(const v1::EvaluateRequest& request, EvaluationCall& call) const {
  if (!call.Wanted().ok()) return;  // it ended while it waited
  const absl::Time start = absl::Now();
  absl::Status status;
  // The boundary where a failed allocation, the one exception that code below may meet, must not
  // take the jobs down.
  try {
    status = Evaluate(request, call);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("out of memory");
  }
  LogInfo("evaluation ended", {{"source", request.source()},
                               {"model", request.model()},
                               {"seconds", absl::ToDoubleSeconds(absl::Now() - start)},
                               {"status", status.ToString()}});
  call.End(status);
}

absl::Status Evaluator::Evaluate(const v1::EvaluateRequest& request, EvaluationCall& call) const {
  const v1::Evaluation& evaluation = request.evaluation();
  QL_ASSIGN_OR_RETURN(const auto source_path, ResolveSource(request.source(), source_root_));
  QL_ASSIGN_OR_RETURN(const auto model_path, ResolveModel(request.model(), model_root_));
  QL_ASSIGN_OR_RETURN(const std::string text, ReadEvaluationText(evaluation, source_root_));
  ThreadTeam team(options_.threads);
  QL_ASSIGN_OR_RETURN(ModelPair models,
                      Load(source_path, model_path, evaluation.window_tokens(), team, call));

  v1::EvaluateResponse plan;
  *plan.mutable_plan() = std::move(models.plan);
  QL_ASSIGN_OR_RETURN(*plan.mutable_plan()->mutable_model_sha256(),
                      publisher_.ManifestDigest(model_path));
  const uint32_t window_tokens = plan.plan().window_tokens();
  auto comparison = ModelComparison::Create(*models.source, *models.packed, window_tokens, team);
  if (!comparison.ok()) return WithField(comparison.status(), "model");
  const std::vector<int32_t> tokens = models.source->EncodePrompt(text, /*parse_special=*/false);
  const auto windows = CountWindows(tokens.size(), evaluation.windows(), window_tokens);
  if (!windows.ok()) return WithField(windows.status(), "evaluation.text");
  plan.mutable_plan()->set_windows(*windows);
  plan.mutable_plan()->set_text_sha256(
      Sha256::Of({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  call.Send(plan);

  for (uint32_t w = request.first_window(); w < *windows; ++w) {
    QL_RETURN_IF_ERROR(call.Wanted());
    const auto window =
        absl::MakeConstSpan(tokens).subspan(size_t{w} * window_tokens, window_tokens);
    QL_ASSIGN_OR_RETURN(const WindowMetrics metrics, (*comparison)->Compare(window));
    call.Send(WindowMessage(w, metrics));
  }
  return absl::OkStatus();
}

}  // namespace quantloom
