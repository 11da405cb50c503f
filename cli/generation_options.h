// What `generate`, `chat` and `load` have in common: the options of generation, and reading its
// stream.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/connection.h"
#include "quantloom/v1/generation.pb.h"

namespace CLI {
class App;
}

namespace quantloom::cli {

// Adds --model and the options of sampling and serving; they fill `request`, which must outlive the
// App. Ranges are the server's to check: it names the field.
void AddGenerationOptions(CLI::App& command, quantloom::v1::GenerateRequest& request);

// Parts of them: --model; how tokens are chosen; what decides between requests that compete, and
// which prompts share their computation.
void AddModelOption(CLI::App& command, quantloom::v1::GenerateRequest& request);
void AddSamplingOptions(CLI::App& command, quantloom::v1::GenerateRequest& request);
void AddServingOptions(CLI::App& command, quantloom::v1::GenerateRequest& request);

// How fast an answer came, by the client's clock.
struct GenerationTimes {
  absl::Time start;
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time last_token = absl::InfinitePast();
  uint64_t tokens = 0;
  uint64_t first_tokens = 0;  // tokens that came with the first of them

  absl::Duration TimeToFirstToken() const { return first_token - start; }
  // Tokens after the first response per second between the first and the last; 0 when there are
  // none.
  double TokensPerSecond() const;
};

// Streams a generation, each response to `on_response` as it arrives, with the connection's retries
// before the first response. Cancelling the connection's Cancellation ends it: OK is returned, and
// cancelled() tells.
absl::Status StreamGeneration(
    Connection& connection, const quantloom::v1::GenerateRequest& request,
    const std::function<void(const quantloom::v1::GenerateResponse&)>& on_response,
    GenerationTimes& times);

// "23 prompt tokens (16 cached), 64 generated, 81.2 tokens/s, first token after 0.11s, stop".
std::string FormatStatistics(const quantloom::v1::GenerateResponse& last,
                             const GenerationTimes& times);

// "stop", "stop_sequence", "length"; "interrupted" when the stream had no last response.
std::string FinishReasonName(quantloom::v1::FinishReason reason);

}  // namespace quantloom::cli
