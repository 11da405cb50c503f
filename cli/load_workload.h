// What `quantloom load` sends: the lengths of prompts and answers, the prompts themselves, and
// which requests are given up midway.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quantloom/v1/generation.pb.h"

namespace quantloom::cli {

// A distribution of lengths in tokens:
//
//   128                    always the same
//   uniform:16,512         each length from 16 to 512 equally likely
//   normal:128,32          mean, standard deviation
//   lognormal:128,0.5      median, standard deviation of the logarithm
//
// Draws are rounded, and at least 1.
class LengthDistribution {
 public:
  static LengthDistribution Fixed(uint32_t length);
  // INVALID_ARGUMENT for anything else than the forms above, and for lengths beyond kMaxLength.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view text);
  static constexpr double kMaxLength = 1 << 20;

  uint32_t Draw(std::mt19937_64& random) const;

 private:
  enum class Kind { kFixed, kUniform, kNormal, kLognormal };
  LengthDistribution(Kind kind, double a, double b) : kind_(kind), a_(a), b_(b) {}

  Kind kind_;
  double a_;  // length; least; mean; median
  double b_;  // unused; most; standard deviation; that of the logarithm
};

// The inputs in a file of lines of JSON, each a string (a prompt) or an object with one of `prompt`
// (text), `prompt_tokens` (ids) and `messages` (objects with `role` and `content`), and perhaps
// `max_tokens`. Empty lines are skipped. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<quantloom::v1::GenerateRequest>> ParsePrompts(absl::string_view lines);

class Workload {
 public:
  struct Options {
    // What all requests have in common.
    quantloom::v1::GenerateRequest common;
    LengthDistribution prompt_tokens = LengthDistribution::Fixed(128);
    // Tokens to generate; a prompt from a file that has its own number keeps it.
    LengthDistribution output_tokens = LengthDistribution::Fixed(64);
    // Tokens that every prompt begins with, beside `prompt_tokens` others.
    uint32_t shared_prefix = 0;
    // Sent in turn instead of random tokens, where there are any.
    std::vector<quantloom::v1::GenerateRequest> prompts;
    // Of random prompts: ids are below `vocab_size`, and lengths are cut so that prompt and answer
    // fit the context.
    uint32_t vocab_size = 0;
    uint32_t context_length = 0;
    // Requests say in turn that they come from this many clients, "NAME-1" and so on; 0: from the
    // one of `common`.
    uint32_t clients = 0;
    double cancel_fraction = 0;
    uint64_t seed = 0;
  };
  struct Item {
    quantloom::v1::GenerateRequest request;
    // Give it up after this many tokens of its answer, 0: as soon as it is sent.
    std::optional<uint32_t> cancel_after;
  };

  explicit Workload(Options options);

  // Request number `index`: the same for the same seed, in whatever order they are sent.
  Item Make(uint64_t index) const;

 private:
  void SetRandomPrompt(std::mt19937_64& random, quantloom::v1::GenerateRequest& request) const;

  Options options_;
  std::vector<int32_t> prefix_;
};

}  // namespace quantloom::cli
