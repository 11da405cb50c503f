#include "services/server/generation_service.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "services/common/rpc_status.h"
#include "services/common/unary_call.h"
#include "services/server/token_message.h"

namespace quantloom {
namespace {

constexpr int kTextThreads = 2;
constexpr size_t kMaxQueuedTexts = 256;
constexpr int kScoreThreads = 2;

absl::StatusOr<v1::ScoreResponse> ScoreText(ModelRegistry& models, const InputLimits& limits,
                                            const v1::ScoreRequest& request,
                                            const UnaryCall& call) {
  QL_ASSIGN_OR_RETURN(const ModelRegistry::Lease model, models.Acquire(request.model()));
  call.record().Note({"model", model->name});
  QL_RETURN_IF_ERROR(CheckScoreRequest(request, *model->loaded, limits));
  QL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodeScoreRequest(request, *model->loaded));
  call.record().Note({"prompt_tokens", ids.size()});
  GenerationEngine::ScoreOptions options;
  options.top = request.top();
  options.standing = ToStanding(request.priority(), request.client(), call.caller());
  options.request_id = call.record().request_id();
  options.deadline = call.deadline();
  options.cancelled = [&call] { return call.given_up(); };
  QL_ASSIGN_OR_RETURN(const auto scored, model->engine->Score(ids, options));
  v1::ScoreResponse response;
  response.add_tokens()->set_id(ids[0]);
  double total = 0;
  for (const GenerationEngine::ScoredToken& token : scored) {
    v1::GeneratedToken& message = *response.add_tokens();
    message.set_id(token.token);
    message.set_logprob(token.logprob);
    AddTopTokens(token.top, model->loaded->tokenizer(), message);
    total += token.logprob;
  }
  response.set_total_logprob(total);
  return response;
}

absl::StatusOr<v1::TokenizeResponse> TokenizeText(ModelRegistry& models, const InputLimits& limits,
                                                  const v1::TokenizeRequest& request) {
  QL_ASSIGN_OR_RETURN(const ModelRegistry::Lease model, models.Acquire(request.model()));
  QL_RETURN_IF_ERROR(CheckTextSize(request.text().size(), limits, "text"));
  const Tokenizer& tokenizer = model->loaded->tokenizer();
  const std::vector<int32_t> ids =
      request.add_bos() ? model->loaded->EncodePrompt(request.text(), request.parse_special())
                        : tokenizer.Encode(request.text(), request.parse_special());
  v1::TokenizeResponse response;
  for (const int32_t id : ids) {
    response.add_ids(id);
    response.add_tokens(tokenizer.TokenBytes(id));
  }
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> DetokenizeIds(ModelRegistry& models,
                                                     const v1::DetokenizeRequest& request) {
  QL_ASSIGN_OR_RETURN(const ModelRegistry::Lease model, models.Acquire(request.model()));
  QL_RETURN_IF_ERROR(CheckTokenIds(request.ids(), *model->loaded, "ids"));
  StreamingDetokenizer detokenizer(model->loaded->tokenizer(), request.skip_special());
  v1::DetokenizeResponse response;
  for (const int32_t id : request.ids()) response.mutable_text()->append(detokenizer.Push(id));
  response.mutable_text()->append(detokenizer.Flush());
  return response;
}

}  // namespace

GenerationServiceImpl::GenerationServiceImpl(ModelRegistry& models, ServingMetrics& metrics,
                                             const InputLimits& limits)
    : models_(models),
      limits_(limits),
      text_pool_(kTextThreads, kMaxQueuedTexts),
      score_pool_(kScoreThreads, models.options().engine.max_waiting),
      generate_{models, metrics, text_pool_, limits} {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationServiceImpl::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateCall::Start(*context, *request, generate_);
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Score(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return RunUnary<v1::ScoreRequest>(*context, *request, response, score_pool_,
                                    [this](const v1::ScoreRequest& parsed, const UnaryCall& call) {
                                      return ScoreText(models_, limits_, parsed, call);
                                    });
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return RunUnary<v1::TokenizeRequest>(*context, *request, response, text_pool_,
                                       [this](const v1::TokenizeRequest& parsed, const UnaryCall&) {
                                         return TokenizeText(models_, limits_, parsed);
                                       });
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return RunUnary<v1::DetokenizeRequest>(
      *context, *request, response, text_pool_,
      [this](const v1::DetokenizeRequest& parsed, const UnaryCall&) {
        return DetokenizeIds(models_, parsed);
      });
}

}  // namespace quantloom
