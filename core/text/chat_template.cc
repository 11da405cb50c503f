#include "core/text/chat_template.h"

#include "absl/strings/str_cat.h"
#include "core/base/json.h"
#include "core/base/status.h"
#include "core/text/jinja/evaluator.h"
#include "core/text/jinja/parser.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

using nlohmann::json;

using Variables = std::vector<std::pair<std::string, jinja::Value>>;

class JinjaChatTemplate final : public ChatTemplate {
 public:
  JinjaChatTemplate(std::vector<jinja::Statement> statements, Variables special_tokens)
      : statements_(std::move(statements)), special_tokens_(std::move(special_tokens)) {}

  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     bool add_generation_prompt,
                                     const Limits& limits) const override {
    std::vector<jinja::Value> list;
    list.reserve(messages.size());
    for (const ChatMessage& message : messages) {
      QL_ASSIGN_OR_RETURN(jinja::Value entry,
                          jinja::Value::MakeDict({{"role", TextValue(message.role)},
                                                  {"content", TextValue(message.content)}}));
      list.push_back(std::move(entry));
    }
    QL_ASSIGN_OR_RETURN(jinja::Value sequence, jinja::Value::MakeSequence(std::move(list)));
    Variables variables = special_tokens_;
    variables.emplace_back("messages", std::move(sequence));
    variables.emplace_back("add_generation_prompt", jinja::Value(add_generation_prompt));
    // Templates ask whether these are none, so they must be there.
    variables.emplace_back("tools", jinja::Value());
    variables.emplace_back("documents", jinja::Value());
    absl::StatusOr<std::string> text =
        jinja::Evaluate(statements_, std::move(variables),
                        {limits.max_steps, limits.max_output_bytes, limits.max_depth});
    if (!text.ok()) return Annotate(text.status(), "chat template");
    return text;
  }

 private:
  static jinja::Value TextValue(const std::string& text) {
    return jinja::Value(IsValidUtf8(text) ? text : ReplaceInvalidUtf8(text));
  }

  std::vector<jinja::Statement> statements_;
  Variables special_tokens_;
};

absl::StatusOr<std::unique_ptr<ChatTemplate>> ParseWithTokens(absl::string_view source,
                                                              Variables special_tokens) {
  if (!IsValidUtf8(source)) {
    return absl::InvalidArgumentError("chat template: is not valid UTF-8");
  }
  absl::StatusOr<std::vector<jinja::Statement>> statements = jinja::ParseTemplate(source);
  if (!statements.ok()) return Annotate(statements.status(), "chat template");
  return std::make_unique<JinjaChatTemplate>(*std::move(statements), std::move(special_tokens));
}

// The template of a configuration: a string, or the entry named "default" of a list.
const json* FindTemplate(const json& config) {
  const json* found = FindJson(config, "chat_template");
  if (found == nullptr || !found->is_array()) return found;
  for (const json& entry : *found) {
    const json* name = FindJson(entry, "name");
    if (name != nullptr && *name == "default") return FindJson(entry, "template");
  }
  return nullptr;
}

// A token is written as its spelling or as an object that holds it.
const json* FindSpelling(const json& config, absl::string_view name) {
  const json* token = FindJson(config, name);
  if (token != nullptr && token->is_object()) token = FindJson(*token, "content");
  return token != nullptr && token->is_string() ? token : nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(absl::string_view source) {
  return ParseWithTokens(source, {});
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromTokenizerConfig(
    absl::string_view tokenizer_config_json) {
  const absl::StatusOr<json> config = ParseJsonObject(tokenizer_config_json);
  if (!config.ok()) return Annotate(config.status(), "tokenizer_config.json");
  const json* source = FindTemplate(*config);
  if (source == nullptr || source->is_null()) {
    return absl::NotFoundError("tokenizer_config.json: no chat_template");
  }
  if (!source->is_string()) {
    return absl::InvalidArgumentError("tokenizer_config.json: chat_template must be a string");
  }
  Variables special_tokens;
  for (const char* name : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    if (const json* spelling = FindSpelling(*config, name)) {
      special_tokens.emplace_back(name, jinja::Value(spelling->get<std::string>()));
    }
  }
  return ParseWithTokens(source->get_ref<const std::string&>(), std::move(special_tokens));
}

}  // namespace quantloom
