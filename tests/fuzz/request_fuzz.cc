// Any bytes as a request of the services, on the way that requests take: parsed, checked, turned
// into the engine's terms, and for Generate and Score run on a tiny model. Whatever they are, the
// outcome is a result that keeps what the contract says of it, or a status that blames the request
// and can be sent.
//
// The first byte chooses the method, the rest is the message on the wire.
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/base/parallel.h"
#include "core/text/utf8.h"
#include "engine/generation.h"
#include "engine/loaded_model.h"
#include "quantloom/v1/generation.pb.h"
#include "quantloom/v1/model.pb.h"
#include "quantloom/v1/quantization.pb.h"
#include "services/common/access_control.h"
#include "services/common/confined_root.h"
#include "services/common/message_bytes.h"
#include "services/common/rpc_status.h"
#include "services/common/trace_context.h"
#include "services/quantizer/quantize_request.h"
#include "services/server/model_root.h"
#include "services/server/request_conversion.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

// Enough for every feature to act, and few enough for many inputs a second.
constexpr uint32_t kMaxTokens = 6;
constexpr uint64_t kMaxPromptBytes = 512;
constexpr size_t kMaxScoredTokens = 64;

#define REQUIRE(condition)                                     \
  do {                                                         \
    if (!(condition)) {                                        \
      std::fprintf(stderr, "does not hold: %s\n", #condition); \
      std::abort();                                            \
    }                                                          \
  } while (false)

const Caller kCaller = {.client = "address:ipv4:127.0.0.1", .authenticated = false};

// A tiny model and its engine, for the life of the process.
struct Services {
  Services() {
    testing::WriteTinyModel(directory.path() / "tiny", /*seed=*/1);
    auto loaded = LoadedModel::LoadSource(directory.path() / "tiny", team);
    REQUIRE(loaded.ok());
    model = *std::move(loaded);
    GenerationEngine::Limits limits;
    limits.max_running = 2;
    limits.kv_tokens = 1024;
    auto created = GenerationEngine::Create(model, limits);
    REQUIRE(created.ok());
    engine = *std::move(created);
  }

  testing::TemporaryDirectory directory;
  ThreadTeam team{1};
  std::shared_ptr<const LoadedModel> model;
  std::unique_ptr<GenerationEngine> engine;
  const ConfinedRoot root = *ConfinedRoot::Open(directory.path());
  ModelRoot models{root};
};

Services& Running() {
  static Services services;
  return services;
}

// The service is not at fault, and whoever asked can be told.
void RequireBlame(const absl::Status& status) {
  REQUIRE(!status.ok());
  REQUIRE(absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
          absl::IsPermissionDenied(status));
  const grpc::Status sent = ToGrpcStatus(status);
  REQUIRE(IsValidUtf8(sent.error_message()));
  REQUIRE(sent.error_message().size() <= kMaxStatusMessageBytes + 3);
}

void RunGenerate(const v1::GenerateRequest& message) {
  Services& services = Running();
  const InputLimits limits = {.max_prompt_bytes = kMaxPromptBytes};
  if (const absl::Status status = CheckGenerateRequest(message, *services.model, limits);
      !status.ok()) {
    return RequireBlame(status);
  }
  auto request = EncodeGenerateRequest(message, *services.model, kCaller);
  if (!request.ok()) return RequireBlame(request.status());
  // Only now, so that what was asked for has been checked.
  if (request->max_tokens == 0 || request->max_tokens > kMaxTokens)
    request->max_tokens = kMaxTokens;
  const uint32_t max_tokens = request->max_tokens;
  // Shared with the engine's thread, which may still be in the last event when it has been seen.
  struct Outcome {
    uint32_t tokens = 0;
    std::promise<GenerationEvent> ended;
  };
  const auto outcome = std::make_shared<Outcome>();
  const auto stream =
      services.engine->Submit(*std::move(request), [outcome](const GenerationEvent& event) {
        REQUIRE(IsValidUtf8(event.text));
        if (event.token.has_value()) ++outcome->tokens;
        if (event.last()) outcome->ended.set_value(event);
      });
  if (!stream.ok()) return RequireBlame(NameRequestField(stream.status(), message));
  const GenerationEvent last = outcome->ended.get_future().get();
  REQUIRE(last.status.ok());
  REQUIRE(last.generated_tokens == outcome->tokens);
  REQUIRE(outcome->tokens <= max_tokens);
  REQUIRE(last.cached_tokens < last.prompt_tokens);
}

void RunScore(const v1::ScoreRequest& message) {
  Services& services = Running();
  const InputLimits limits = {.max_prompt_bytes = kMaxPromptBytes};
  if (const absl::Status status = CheckScoreRequest(message, *services.model, limits);
      !status.ok()) {
    return RequireBlame(status);
  }
  const auto ids = EncodeScoreRequest(message, *services.model);
  if (!ids.ok()) return RequireBlame(ids.status());
  if (ids->size() > kMaxScoredTokens) return;  // takes long, and no other way
  GenerationEngine::ScoreOptions options;
  options.top = message.top();
  options.standing = ToStanding(message.priority(), message.client(), kCaller);
  const auto scored = services.engine->Score(*ids, options);
  if (!scored.ok()) return RequireBlame(scored.status());
  REQUIRE(scored->size() == ids->size() - 1);
  for (const auto& token : *scored) REQUIRE(token.logprob < 1e-3f);
}

void RunTokenize(const v1::TokenizeRequest& message) {
  const LoadedModel& model = *Running().model;
  const InputLimits limits = {.max_prompt_bytes = kMaxPromptBytes};
  if (const absl::Status status = CheckTextSize(message.text().size(), limits, "text");
      !status.ok()) {
    return RequireBlame(status);
  }
  const std::vector<int32_t> ids =
      model.tokenizer().Encode(message.text(), message.parse_special());
  std::string text;
  for (const int32_t id : ids) text += model.tokenizer().TokenBytes(id);
  REQUIRE(text == message.text());
}

void RunDetokenize(const v1::DetokenizeRequest& message) {
  const LoadedModel& model = *Running().model;
  if (const absl::Status status = CheckTokenIds(message.ids(), model, "ids"); !status.ok()) {
    return RequireBlame(status);
  }
  StreamingDetokenizer detokenizer(model.tokenizer(), message.skip_special());
  for (const int32_t id : message.ids()) REQUIRE(IsValidUtf8(detokenizer.Push(id)));
  REQUIRE(IsValidUtf8(detokenizer.Flush()));
}

void RunQuantize(const v1::QuantizeRequest& message) {
  const auto accepted = AcceptRequest(message, Running().root);
  if (!accepted.ok()) return RequireBlame(accepted.status());
  // What was accepted stays so: a job store keeps it.
  const auto again = AcceptRequest(*accepted, Running().root);
  REQUIRE(again.ok());
  REQUIRE(again->SerializeAsString() == accepted->SerializeAsString());
  const auto options = ToQuantizeOptions(*accepted, Running().root);
  if (!options.ok()) RequireBlame(options.status());
}

void RunGetModel(const v1::GetModelRequest& message) {
  const auto directory = Running().models.Directory(message.name(), "name");
  // Nothing there is packed.
  RequireBlame(directory.status());
}

void ReadMetadata(absl::string_view text) {
  const TraceContext trace = ContinueTrace({text});
  const auto echoed = ParseTraceparent(FormatTraceparent(trace));
  REQUIRE(echoed.has_value());
  REQUIRE(echoed->trace_id == trace.trace_id && echoed->parent_id == trace.span_id);
  REQUIRE(IsValidRequestId(ChooseRequestId({text})));
}

template <typename Message>
void Run(absl::string_view bytes, void (*method)(const Message&)) {
  const grpc::Slice slice(bytes.data(), bytes.size());
  Message message;
  const absl::Status parsed = DecodeMessage(grpc::ByteBuffer(&slice, 1), message);
  parsed.ok() ? method(message) : RequireBlame(parsed);
}

}  // namespace
}  // namespace quantloom

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantloom;
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 'G':
      Run(rest, RunGenerate);
      break;
    case 'S':
      Run(rest, RunScore);
      break;
    case 'T':
      Run(rest, RunTokenize);
      break;
    case 'D':
      Run(rest, RunDetokenize);
      break;
    case 'Q':
      Run(rest, RunQuantize);
      break;
    case 'M':
      Run(rest, RunGetModel);
      break;
    case 'H':
      ReadMetadata(rest);
      break;
    default:
      break;
  }
  return 0;
}
