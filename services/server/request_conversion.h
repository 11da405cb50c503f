// Requests of GenerationService as the engine's, with every field checked.
//
// In two steps, because the first is cheap and may run on gRPC's threads while the second takes
// time that grows with the input: Check* looks at sizes, ranges and ids; Encode* tokenizes and
// renders what Check* has bounded. All errors name the field in the contract's spelling, with a
// google.rpc.BadRequest detail.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/generation.h"
#include "engine/loaded_model.h"
#include "quantloom/v1/generation.pb.h"
#include "services/common/access_control.h"

namespace quantloom {

struct InputLimits {
  uint64_t max_prompt_bytes = 0;  // of a prompt, a text, or all messages of a chat
};

absl::Status CheckGenerateRequest(const v1::GenerateRequest& request, const LoadedModel& model,
                                  const InputLimits& limits);
// `request` must have passed CheckGenerateRequest. The deadline is left to the caller; a seed is
// drawn where the request has none.
absl::StatusOr<GenerationRequest> EncodeGenerateRequest(const v1::GenerateRequest& request,
                                                        const LoadedModel& model,
                                                        const Caller& caller);
// Whose share a request counts against. A caller that has been authenticated is who it is, whatever
// `client` says; another is the `client` that it names itself, or its address.
Standing ToStanding(v1::Priority priority, const std::string& client, const Caller& caller);
// An error of GenerationEngine::Submit, which begins with the engine's name of the field, in the
// contract's spelling.
absl::Status NameRequestField(const absl::Status& status, const v1::GenerateRequest& request);

absl::Status CheckScoreRequest(const v1::ScoreRequest& request, const LoadedModel& model,
                               const InputLimits& limits);
// Ids of what is to be scored: 2 .. the context length.
absl::StatusOr<std::vector<int32_t>> EncodeScoreRequest(const v1::ScoreRequest& request,
                                                        const LoadedModel& model);

// INVALID_ARGUMENT naming `field` when `bytes` is over the limit.
absl::Status CheckTextSize(uint64_t bytes, const InputLimits& limits, absl::string_view field);
// INVALID_ARGUMENT naming the first element of `field` that is outside the vocabulary.
absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids,
                           const LoadedModel& model, absl::string_view field);

}  // namespace quantloom
