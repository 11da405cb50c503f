#include "services/server/request_conversion.h"

#include <random>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

constexpr int kMaxStopTexts = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int kMaxStopTokens = 64;
constexpr size_t kMaxLogitBiases = 1024;
constexpr size_t kMaxPrefixSaltBytes = 256;
constexpr float kMaxTemperature = 100;
constexpr float kMaxRepetitionPenalty = 10;

absl::Status CheckChat(const v1::Chat& chat, const LoadedModel& model, const InputLimits& limits) {
  if (model.chat_template() == nullptr) {
    return InvalidField("chat", "the model has no chat template");
  }
  if (chat.messages().empty()) return InvalidField("chat.messages", "must not be empty");
  uint64_t bytes = 0;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    if (message.role() != "system" && message.role() != "user" && message.role() != "assistant") {
      return InvalidField(absl::StrCat("chat.messages[", i, "].role"),
                          "must be 'system', 'user' or 'assistant'");
    }
    bytes += message.content().size();
  }
  return CheckTextSize(bytes, limits, "chat.messages");
}

absl::Status CheckInput(const v1::GenerateRequest& request, const LoadedModel& model,
                        const InputLimits& limits) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt:
      if (request.prompt().empty()) return InvalidField("prompt", "must not be empty");
      return CheckTextSize(request.prompt().size(), limits, "prompt");
    case v1::GenerateRequest::kPromptTokens:
      if (request.prompt_tokens().ids().empty()) {
        return InvalidField("prompt_tokens.ids", "must not be empty");
      }
      return CheckTokenIds(request.prompt_tokens().ids(), model, "prompt_tokens.ids");
    case v1::GenerateRequest::kChat:
      return CheckChat(request.chat(), model, limits);
    case v1::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return InvalidField("input", "one of prompt, prompt_tokens and chat must be set");
}

absl::Status CheckStops(const v1::GenerateRequest& request, const LoadedModel& model) {
  if (request.stop_size() > kMaxStopTexts) {
    return InvalidField("stop", absl::StrCat("has ", request.stop_size(), " texts; at most ",
                                             kMaxStopTexts, " are allowed"));
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    if (request.stop(i).empty() || request.stop(i).size() > kMaxStopBytes) {
      return InvalidField(
          absl::StrCat("stop[", i, "]"),
          absl::StrCat("has ", request.stop(i).size(), " bytes; must have 1 .. ", kMaxStopBytes));
    }
  }
  if (request.stop_token_ids_size() > kMaxStopTokens) {
    return InvalidField("stop_token_ids",
                        absl::StrCat("has ", request.stop_token_ids_size(), " ids; at most ",
                                     kMaxStopTokens, " are allowed"));
  }
  return CheckTokenIds(request.stop_token_ids(), model, "stop_token_ids");
}

absl::Status CheckStanding(v1::Priority priority, const std::string& client) {
  if (!v1::Priority_IsValid(priority)) {
    return InvalidField("priority", absl::StrCat("unknown value ", static_cast<int>(priority)));
  }
  if (client.size() > kMaxClientBytes) {
    return InvalidField("client", absl::StrCat("has ", client.size(), " bytes; at most ",
                                               kMaxClientBytes, " are allowed"));
  }
  return absl::OkStatus();
}

SamplingParams ToSamplingParams(const v1::SamplingParameters& message) {
  SamplingParams params;
  params.temperature = message.temperature();
  params.top_k = message.top_k();
  if (message.has_top_p()) params.top_p = message.top_p();
  params.min_p = message.min_p();
  if (message.has_repetition_penalty()) params.repetition_penalty = message.repetition_penalty();
  params.presence_penalty = message.presence_penalty();
  params.frequency_penalty = message.frequency_penalty();
  params.seed = message.seed();
  for (const auto& [token, bias] : message.logit_bias()) params.logit_bias[token] = bias;
  return params;
}

// INVALID_ARGUMENT "field: reason" as InvalidField(parent + "." + field, reason); other statuses
// are left as they are.
absl::Status InParent(const absl::Status& status, absl::string_view parent) {
  const absl::string_view message = status.message();
  const size_t colon = message.find(": ");
  if (!absl::IsInvalidArgument(status) || colon == absl::string_view::npos) return status;
  return InvalidField(absl::StrCat(parent, message.substr(0, colon)), message.substr(colon + 2));
}

// What the contract bounds beyond what the sampler can do, then the sampler's own conditions.
absl::Status CheckSampling(const v1::SamplingParameters& sampling, const LoadedModel& model) {
  if (sampling.temperature() > kMaxTemperature) {
    return InvalidField("sampling.temperature", "must be in 0 .. 100");
  }
  if (sampling.repetition_penalty() > kMaxRepetitionPenalty) {
    return InvalidField("sampling.repetition_penalty", "must be in (0, 10]");
  }
  if (sampling.logit_bias().size() > kMaxLogitBiases) {
    return InvalidField("sampling.logit_bias",
                        absl::StrCat("has ", sampling.logit_bias().size(), " entries; at most ",
                                     kMaxLogitBiases, " are allowed"));
  }
  return InParent(
      ToSamplingParams(sampling).Validate(static_cast<int32_t>(model.config().vocab_size)),
      "sampling.");
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::Chat& chat, const LoadedModel& model) {
  std::vector<ChatMessage> messages;
  messages.reserve(chat.messages_size());
  for (const v1::ChatMessage& message : chat.messages()) {
    messages.push_back({message.role(), message.content()});
  }
  const auto text = model.chat_template()->Render(messages, !chat.omit_generation_prompt());
  if (!text.ok()) return InvalidField("chat", text.status().message());
  // A template spells the special tokens it wants, the BOS included.
  return model.tokenizer().Encode(*text, /*parse_special=*/true);
}

absl::StatusOr<std::vector<int32_t>> InputTokens(const v1::GenerateRequest& request,
                                                 const LoadedModel& model) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt:
      return model.EncodePrompt(request.prompt(), /*parse_special=*/true);
    case v1::GenerateRequest::kChat:
      return EncodeChat(request.chat(), model);
    default:
      return std::vector<int32_t>(request.prompt_tokens().ids().begin(),
                                  request.prompt_tokens().ids().end());
  }
}

uint64_t DrawSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

absl::Status CheckTextSize(uint64_t bytes, const InputLimits& limits, absl::string_view field) {
  if (bytes <= limits.max_prompt_bytes) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has ", bytes, " bytes; at most ",
                                          limits.max_prompt_bytes, " are allowed"));
}

absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids,
                           const LoadedModel& model, absl::string_view field) {
  const auto vocab_size = static_cast<int64_t>(model.config().vocab_size);
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return InvalidField(
          absl::StrCat(field, "[", i, "]"),
          absl::StrCat("token id ", ids[i], " is outside the vocabulary of ", vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGenerateRequest(const v1::GenerateRequest& request, const LoadedModel& model,
                                  const InputLimits& limits) {
  QL_RETURN_IF_ERROR(CheckInput(request, model, limits));
  QL_RETURN_IF_ERROR(CheckSampling(request.sampling(), model));
  QL_RETURN_IF_ERROR(CheckStops(request, model));
  if (request.logprobs() > kMaxLogprobs) {
    return InvalidField("logprobs", absl::StrCat("must be in 0 .. ", kMaxLogprobs));
  }
  if (request.max_tokens() != 0 && request.min_tokens() > request.max_tokens()) {
    return InvalidField(
        "min_tokens",
        absl::StrCat(request.min_tokens(), " is more than max_tokens, ", request.max_tokens()));
  }
  const size_t salt_bytes = request.prefix_cache().salt().size();
  if (salt_bytes > kMaxPrefixSaltBytes) {
    return InvalidField("prefix_cache.salt", absl::StrCat("has ", salt_bytes, " bytes; at most ",
                                                          kMaxPrefixSaltBytes, " are allowed"));
  }
  return CheckStanding(request.priority(), request.client());
}

Standing ToStanding(v1::Priority priority, const std::string& client, const Caller& caller) {
  Standing standing;
  if (priority == v1::PRIORITY_LOW) standing.priority = Priority::kLow;
  if (priority == v1::PRIORITY_HIGH) standing.priority = Priority::kHigh;
  standing.client = caller.authenticated || client.empty() ? caller.client : client;
  return standing;
}

absl::StatusOr<GenerationRequest> EncodeGenerateRequest(const v1::GenerateRequest& request,
                                                        const LoadedModel& model,
                                                        const Caller& caller) {
  GenerationRequest converted;
  QL_ASSIGN_OR_RETURN(converted.prompt, InputTokens(request, model));
  converted.sampling = ToSamplingParams(request.sampling());
  if (!request.sampling().has_seed()) converted.sampling.seed = DrawSeed();
  converted.max_tokens = request.max_tokens();
  converted.stop.assign(request.stop().begin(), request.stop().end());
  converted.stop_tokens.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  converted.ignore_eos = request.ignore_eos();
  converted.logprobs = request.logprobs();
  converted.min_tokens = request.min_tokens();
  converted.share_prefix = !request.prefix_cache().disable();
  converted.prefix_salt = request.prefix_cache().salt();
  converted.standing = ToStanding(request.priority(), request.client(), caller);
  return converted;
}

absl::Status NameRequestField(const absl::Status& status, const v1::GenerateRequest& request) {
  if (!absl::StartsWith(status.message(), "prompt: ")) {
    return InParent(status, "");
  }
  const char* field = request.has_chat()            ? "chat"
                      : request.has_prompt_tokens() ? "prompt_tokens"
                                                    : "prompt";
  return InvalidField(field, status.message().substr(8));
}

absl::Status CheckScoreRequest(const v1::ScoreRequest& request, const LoadedModel& model,
                               const InputLimits& limits) {
  if (request.top() > kMaxLogprobs) {
    return InvalidField("top", absl::StrCat("must be in 0 .. ", kMaxLogprobs));
  }
  QL_RETURN_IF_ERROR(CheckStanding(request.priority(), request.client()));
  switch (request.input_case()) {
    case v1::ScoreRequest::kText:
      return CheckTextSize(request.text().size(), limits, "text");
    case v1::ScoreRequest::kTokens:
      return CheckTokenIds(request.tokens().ids(), model, "tokens.ids");
    case v1::ScoreRequest::INPUT_NOT_SET:
      break;
  }
  return InvalidField("input", "one of text and tokens must be set");
}

absl::StatusOr<std::vector<int32_t>> EncodeScoreRequest(const v1::ScoreRequest& request,
                                                        const LoadedModel& model) {
  const char* field = request.has_text() ? "text" : "tokens.ids";
  std::vector<int32_t> ids =
      request.has_text()
          ? model.EncodePrompt(request.text(), /*parse_special=*/true)
          : std::vector<int32_t>(request.tokens().ids().begin(), request.tokens().ids().end());
  if (ids.size() < 2 || ids.size() > model.config().max_position) {
    return InvalidField(field, absl::StrCat("has ", ids.size(), " tokens; must have 2 .. ",
                                            model.config().max_position));
  }
  return ids;
}

}  // namespace quantloom
