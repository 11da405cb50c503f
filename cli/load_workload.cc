#include "cli/load_workload.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {

using ::quantloom::v1::GenerateRequest;

namespace {

// Generators for one request, and for what all have in common.
std::mt19937_64 RandomOf(uint64_t seed, uint64_t index) {
  std::seed_seq sequence = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                            static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32)};
  return std::mt19937_64(sequence);
}
constexpr uint64_t kPrefixIndex = ~uint64_t{0};

std::vector<int32_t> RandomTokens(uint32_t count, uint32_t vocab_size, std::mt19937_64& random) {
  std::uniform_int_distribution<int32_t> id(0, static_cast<int32_t>(vocab_size) - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = id(random);
  return tokens;
}

bool SetMessages(const nlohmann::json& messages, GenerateRequest& request) {
  if (!messages.is_array() || messages.empty()) return false;
  for (const nlohmann::json& message : messages) {
    const auto role = message.is_object() ? message.find("role") : message.end();
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (role == message.end() || content == message.end() || !role->is_string() ||
        !content->is_string()) {
      return false;
    }
    auto* added = request.mutable_chat()->add_messages();
    added->set_role(role->get<std::string>());
    added->set_content(content->get<std::string>());
  }
  return true;
}

bool SetTokens(const nlohmann::json& ids, GenerateRequest& request) {
  if (!ids.is_array() || ids.empty()) return false;
  for (const nlohmann::json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) return false;
    request.mutable_prompt_tokens()->add_ids(id.get<int32_t>());
  }
  return true;
}

// The request that a line stands for; false for one that is none.
bool ParseInput(const nlohmann::json& line, GenerateRequest& request) {
  if (line.is_string()) {
    request.set_prompt(line.get<std::string>());
    return true;
  }
  if (!line.is_object()) return false;
  int inputs = 0;
  if (const auto prompt = line.find("prompt"); prompt != line.end()) {
    if (!prompt->is_string()) return false;
    request.set_prompt(prompt->get<std::string>());
    ++inputs;
  }
  if (const auto ids = line.find("prompt_tokens"); ids != line.end()) {
    if (!SetTokens(*ids, request)) return false;
    ++inputs;
  }
  if (const auto messages = line.find("messages"); messages != line.end()) {
    if (!SetMessages(*messages, request)) return false;
    ++inputs;
  }
  if (const auto max = line.find("max_tokens"); max != line.end()) {
    if (!max->is_number_unsigned() || max->get<uint64_t>() > UINT32_MAX) return false;
    request.set_max_tokens(max->get<uint32_t>());
  }
  return inputs == 1;
}

}  // namespace

LengthDistribution LengthDistribution::Fixed(uint32_t length) {
  return LengthDistribution(Kind::kFixed, length, 0);
}

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view text) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no length like 128, uniform:16,512, normal:128,32 or ",
                     "lognormal:128,0.5"));
  };
  const auto is_length = [](double value) { return value >= 1 && value <= kMaxLength; };
  const std::vector<absl::string_view> halves = absl::StrSplit(text, absl::MaxSplits(':', 1));
  std::array<double, 2> values{};
  if (halves.size() == 1) {
    uint32_t length = 0;
    if (!absl::SimpleAtoi(text, &length) || !is_length(length)) return wrong();
    return Fixed(length);
  }
  const std::vector<absl::string_view> numbers = absl::StrSplit(halves[1], ',');
  if (numbers.size() != values.size()) return wrong();
  for (size_t i = 0; i < values.size(); ++i) {
    if (!absl::SimpleAtod(numbers[i], &values[i]) || !std::isfinite(values[i])) return wrong();
  }
  const auto [a, b] = values;
  if (!is_length(a) || b < 0) return wrong();
  if (halves[0] == "uniform" && is_length(b) && a <= b && a == std::floor(a) && b == std::floor(b))
    return LengthDistribution(Kind::kUniform, a, b);
  if (halves[0] == "normal" && b <= kMaxLength) return LengthDistribution(Kind::kNormal, a, b);
  if (halves[0] == "lognormal" && b <= 10) return LengthDistribution(Kind::kLognormal, a, b);
  return wrong();
}

uint32_t LengthDistribution::Draw(std::mt19937_64& random) const {
  double length = a_;
  switch (kind_) {
    case Kind::kFixed:
      break;
    case Kind::kUniform:
      length = std::uniform_int_distribution<uint32_t>(static_cast<uint32_t>(a_),
                                                       static_cast<uint32_t>(b_))(random);
      break;
    case Kind::kNormal:
      length = a_ + b_ * std::normal_distribution<double>()(random);
      break;
    case Kind::kLognormal:
      length = a_ * std::exp(b_ * std::normal_distribution<double>()(random));
      break;
  }
  return static_cast<uint32_t>(std::clamp(std::round(length), 1.0, kMaxLength));
}

absl::StatusOr<std::vector<GenerateRequest>> ParsePrompts(absl::string_view lines) {
  std::vector<GenerateRequest> prompts;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const nlohmann::json json = nlohmann::json::parse(line.begin(), line.end(), nullptr,
                                                      /*allow_exceptions=*/false);
    GenerateRequest request;
    if (json.is_discarded() || !ParseInput(json, request)) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number,
                       " is neither a JSON string nor an object with one of prompt, prompt_tokens "
                       "and messages"));
    }
    prompts.push_back(std::move(request));
  }
  if (prompts.empty()) return absl::InvalidArgumentError("there are no prompts in it");
  return prompts;
}

Workload::Workload(Options options) : options_(std::move(options)) {
  std::mt19937_64 random = RandomOf(options_.seed, kPrefixIndex);
  if (options_.shared_prefix > 0) {
    prefix_ = RandomTokens(options_.shared_prefix, options_.vocab_size, random);
  }
}

// Lengths are cut to what the context holds, the answer's first.
void Workload::SetRandomPrompt(std::mt19937_64& random, GenerateRequest& request) const {
  const uint32_t context = std::max(options_.context_length, 2u);
  const uint32_t prefix =
      std::min(static_cast<uint32_t>(prefix_.size()), context - std::min(context, 2u));
  const uint32_t length = std::clamp(options_.prompt_tokens.Draw(random), 1u, context - 1 - prefix);
  auto& ids = *request.mutable_prompt_tokens()->mutable_ids();
  ids.Add(prefix_.begin(), prefix_.begin() + prefix);
  const std::vector<int32_t> own = RandomTokens(length, options_.vocab_size, random);
  ids.Add(own.begin(), own.end());
  request.set_max_tokens(std::min(options_.output_tokens.Draw(random), context - prefix - length));
}

Workload::Item Workload::Make(uint64_t index) const {
  std::mt19937_64 random = RandomOf(options_.seed, index);
  Item item{.request = options_.common, .cancel_after = std::nullopt};
  GenerateRequest& request = item.request;
  if (options_.prompts.empty()) {
    SetRandomPrompt(random, request);
  } else {
    request.MergeFrom(options_.prompts[index % options_.prompts.size()]);
    if (request.max_tokens() == 0) request.set_max_tokens(options_.output_tokens.Draw(random));
  }
  if (options_.clients > 0) {
    request.set_client(absl::StrCat(request.client().empty() ? "load" : request.client(), "-",
                                    1 + index % options_.clients));
  }
  if (std::uniform_real_distribution<double>()(random) < options_.cancel_fraction) {
    item.cancel_after =
        std::uniform_int_distribution<uint32_t>(0, request.max_tokens() - 1)(random);
  }
  return item;
}

}  // namespace quantloom::cli
