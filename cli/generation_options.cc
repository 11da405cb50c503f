#include "cli/generation_options.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/units.h"

namespace quantloom::cli {

using ::quantloom::v1::FinishReason;
using ::quantloom::v1::GenerateRequest;
using ::quantloom::v1::GenerateResponse;
using ::quantloom::v1::SamplingParameters;

namespace {

constexpr uint32_t kDefaultMaxTokens = 256;
constexpr char kSampling[] = "Sampling";

void AddBias(const std::string& text, GenerateRequest& request) {
  const size_t equals = text.find('=');
  int32_t id = 0;
  float bias = 0;
  if (equals == std::string::npos || !absl::SimpleAtoi(text.substr(0, equals), &id) ||
      !absl::SimpleAtof(text.substr(equals + 1), &bias)) {
    throw CLI::ValidationError("--logit-bias", "'" + text + "' is not ID=BIAS");
  }
  (*request.mutable_sampling()->mutable_logit_bias())[id] = bias;
}

}  // namespace

void AddSamplingOptions(CLI::App& command, GenerateRequest& request) {
  const auto number = [&]<typename T>(const char* name, void (SamplingParameters::*set)(T),
                                      const char* help) {
    command
        .add_option_function<T>(
            name, [&request, set](const T& value) { (request.mutable_sampling()->*set)(value); },
            help)
        ->type_name("X")
        ->group(kSampling);
  };
  number("--temperature", &SamplingParameters::set_temperature,
         "0 .. 100 [0: always the most likely token]");
  number("--top-k", &SamplingParameters::set_top_k, "Only the k most likely tokens [0: all]");
  number("--top-p", &SamplingParameters::set_top_p,
         "Only the most likely tokens that reach this probability together, (0, 1] [1]");
  number("--min-p", &SamplingParameters::set_min_p,
         "Only tokens at least this share as likely as the most likely, 0 .. 1 [0]");
  number("--repetition-penalty", &SamplingParameters::set_repetition_penalty,
         "Weakens tokens that prompt or answer have, (0, 10] [1]");
  number("--presence-penalty", &SamplingParameters::set_presence_penalty,
         "Subtracted from logits of tokens in the answer, -2 .. 2 [0]");
  number("--frequency-penalty", &SamplingParameters::set_frequency_penalty,
         "The same for each time a token is in the answer, -2 .. 2 [0]");
  number("--seed", &SamplingParameters::set_seed,
         "The same request with the same seed gives the same text [any]");
  command
      .add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [&request](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) AddBias(text, request);
          },
          "Added to the logit of a token id, -100 .. 100; may be repeated")
      ->option_text("ID=BIAS")
      ->allow_extra_args(false)
      ->group(kSampling);
}

void AddServingOptions(CLI::App& command, GenerateRequest& request) {
  constexpr char kServing[] = "Serving";
  static const std::map<std::string, quantloom::v1::Priority> kPriorities = {
      {"low", quantloom::v1::PRIORITY_LOW},
      {"normal", quantloom::v1::PRIORITY_NORMAL},
      {"high", quantloom::v1::PRIORITY_HIGH}};
  command
      .add_option_function<std::string>(
          "--priority",
          [&request](const std::string& name) { request.set_priority(kPriorities.at(name)); },
          "low, normal or high: who comes first when the server is busy [normal]")
      ->check(CLI::IsMember(kPriorities))
      ->type_name("PRIORITY")
      ->group(kServing);
  command
      .add_option_function<std::string>(
          "--client", [&request](const std::string& name) { request.set_client(name); },
          "Who asks: the server divides its time evenly between clients [this machine's address]")
      ->type_name("NAME")
      ->group(kServing);
  command
      .add_flag_function(
          "--no-prefix-cache",
          [&request](int64_t) { request.mutable_prefix_cache()->set_disable(true); },
          "Compute the whole prompt, and let no other request use it")
      ->group(kServing);
  command
      .add_option_function<std::string>(
          "--prefix-salt",
          [&request](const std::string& salt) { request.mutable_prefix_cache()->set_salt(salt); },
          "Share the computation of prompts with requests of the same salt alone")
      ->type_name("TEXT")
      ->group(kServing);
}

void AddModelOption(CLI::App& command, GenerateRequest& request) {
  command
      .add_option_function<std::string>(
          "-m,--model", [&request](const std::string& name) { request.set_model(name); },
          "Model that answers [the one that is loaded, if it is only one]")
      ->type_name("NAME");
}

void AddGenerationOptions(CLI::App& command, GenerateRequest& request) {
  request.set_max_tokens(kDefaultMaxTokens);
  AddModelOption(command, request);
  command
      .add_option_function<uint32_t>(
          "-n,--max-tokens", [&request](uint32_t count) { request.set_max_tokens(count); },
          "Tokens to generate at most [256]; 0: as many as fit the context")
      ->type_name("N");
  command
      .add_option_function<uint32_t>(
          "--min-tokens", [&request](uint32_t count) { request.set_min_tokens(count); },
          "Tokens to generate before anything but --max-tokens may end the answer [0]")
      ->type_name("N");
  command
      .add_option_function<std::vector<std::string>>(
          "--stop",
          [&request](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) request.add_stop(text);
          },
          "Text that ends the answer, and is not part of it; may be repeated")
      ->option_text("TEXT")
      ->allow_extra_args(false);
  command
      .add_option_function<std::vector<int32_t>>(
          "--stop-token",
          [&request](const std::vector<int32_t>& ids) {
            for (const int32_t id : ids) request.add_stop_token_ids(id);
          },
          "Token id that ends the answer; may be repeated")
      ->option_text("ID")
      ->allow_extra_args(false);
  command.add_flag_function(
      "--ignore-eos", [&request](int64_t) { request.set_ignore_eos(true); },
      "Go on where the model would end");
  AddSamplingOptions(command, request);
  AddServingOptions(command, request);
}

double GenerationTimes::TokensPerSecond() const {
  const double seconds = absl::ToDoubleSeconds(last_token - first_token);
  return tokens > first_tokens && seconds > 0 ? static_cast<double>(tokens - first_tokens) / seconds
                                              : 0;
}

absl::Status StreamGeneration(Connection& connection, const GenerateRequest& request,
                              const std::function<void(const GenerateResponse&)>& on_response,
                              GenerationTimes& times) {
  absl::Status last;
  bool any_response = false;
  const absl::Status refused = connection.Retry(Service::kServer, [&] {
    grpc::ClientContext context;
    SetDeadline(context, connection.Deadline(absl::InfiniteDuration()));
    const Cancellation::Call scope(connection.cancellation(), context);
    times = GenerationTimes{};
    times.start = absl::Now();
    const auto reader = connection.generation().Generate(&context, request);
    GenerateResponse response;
    while (reader->Read(&response)) {
      any_response = true;
      if (response.tokens_size() > 0) {
        times.last_token = absl::Now();
        times.first_token = std::min(times.first_token, times.last_token);
        times.tokens += static_cast<uint64_t>(response.tokens_size());
        if (times.first_tokens == 0) times.first_tokens = times.tokens;
      }
      on_response(response);
    }
    last = FromGrpc(reader->Finish());
    // Half an answer cannot be taken back and started again.
    return any_response ? absl::OkStatus() : last;
  });
  if (connection.cancellation().cancelled()) return absl::OkStatus();
  return refused.ok() ? last : refused;
}

std::string FormatStatistics(const GenerateResponse& last, const GenerationTimes& times) {
  std::string text;
  if (last.has_usage()) {
    absl::StrAppend(&text, FormatGrouped(last.usage().prompt_tokens()), " prompt tokens");
    if (last.usage().cached_tokens() > 0) {
      absl::StrAppend(&text, " (", FormatGrouped(last.usage().cached_tokens()), " cached)");
    }
    absl::StrAppend(&text, ", ");
  }
  absl::StrAppend(&text, FormatGrouped(times.tokens), " generated");
  if (times.TokensPerSecond() > 0) {
    absl::StrAppend(&text, absl::StrFormat(", %.1f tokens/s", times.TokensPerSecond()));
  }
  if (times.tokens > 0) {
    absl::StrAppend(&text, ", first token after ", FormatElapsed(times.TimeToFirstToken()));
  }
  return absl::StrCat(text, ", ", FinishReasonName(last.finish_reason()));
}

std::string FinishReasonName(FinishReason reason) {
  if (reason == quantloom::v1::FINISH_REASON_UNSPECIFIED) return "interrupted";
  return absl::AsciiStrToLower(
      absl::StripPrefix(quantloom::v1::FinishReason_Name(reason), "FINISH_REASON_"));
}

}  // namespace quantloom::cli
