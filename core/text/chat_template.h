// Chat templates: the subset of Jinja that Hugging Face's `chat_template` strings use, interpreted
// with bounds.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  // What a render may cost, so that a hostile template ends in an error and not in a hang.
  struct Limits {
    size_t max_steps = 1'000'000;
    size_t max_output_bytes = 16 << 20;
    size_t max_depth = 64;
  };

  // INVALID_ARGUMENT with line and column for what is malformed or not supported.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(absl::string_view source);
  // The `chat_template` of a tokenizer_config.json (a string, or the entry named "default" of a
  // list), with its bos_token and eos_token spellings bound as variables. NOT_FOUND when there is
  // none.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> FromTokenizerConfig(
      absl::string_view tokenizer_config_json);
  virtual ~ChatTemplate() = default;

  // The prompt text. A template's raise_exception gives INVALID_ARGUMENT with its message; passing
  // a limit, RESOURCE_EXHAUSTED.
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     bool add_generation_prompt) const {
    return Render(messages, add_generation_prompt, Limits());
  }
  virtual absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                             bool add_generation_prompt,
                                             const Limits& limits) const = 0;
};

}  // namespace quantloom
