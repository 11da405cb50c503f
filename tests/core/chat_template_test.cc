// Errors, limits and configuration of chat templates; tests/oracle compares what they render with
// Jinja2.
#include "core/text/chat_template.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantloom {
namespace {

using testing::HasSubstr;

const std::vector<ChatMessage>& Conversation() {
  static const auto* const kConversation = new std::vector<ChatMessage>{
      {"system", "Be brief."}, {"user", "Hello"}, {"assistant", "Hi."}, {"user", "Bye"}};
  return *kConversation;
}

absl::StatusOr<std::string> Render(const std::string& source,
                                   const ChatTemplate::Limits& limits = {}) {
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return chat_template.status();
  return (*chat_template)->Render(Conversation(), true, limits);
}

absl::Status ErrorOf(const std::string& source, const ChatTemplate::Limits& limits = {}) {
  const auto text = Render(source, limits);
  EXPECT_FALSE(text.ok()) << *text;
  return text.status();
}

std::string Repeat(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

// The template that SmolLM2's tokenizer_config.json has.
constexpr char kSmolLm2Config[] = R"json({
  "bos_token": {"content": "<|im_start|>", "special": true},
  "eos_token": "<|im_end|>",
  "chat_template": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
})json";

TEST(ChatTemplate, RendersSmolLm2) {
  const auto chat_template = ChatTemplate::FromTokenizerConfig(kSmolLm2Config);
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  EXPECT_EQ((*chat_template)->Render({{"user", "Hi"}}, true).value(),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ((*chat_template)->Render({{"system", "S"}, {"user", "Hi"}}, false).value(),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
}

TEST(ChatTemplate, ConfigurationGivesTheSpecialTokensAndTheDefaultTemplate) {
  const auto render = [](const std::string& config) {
    const auto chat_template = ChatTemplate::FromTokenizerConfig(config);
    EXPECT_TRUE(chat_template.ok()) << chat_template.status();
    return (*chat_template)->Render({}, false).value();
  };
  EXPECT_EQ(render(R"({"bos_token": "<s>", "eos_token": {"content": "</s>"},
                       "chat_template": "{{ bos_token ~ eos_token ~ pad_token }}"})"),
            "<s></s>");
  EXPECT_EQ(render(R"({"chat_template": [{"name": "tool_use", "template": "tool"},
                                         {"name": "default", "template": "plain"}]})"),
            "plain");
}

TEST(ChatTemplate, ConfigurationWithoutATemplateIsNotFound) {
  for (const char* config : {"{}", R"({"chat_template": null})",
                             R"({"chat_template": [{"name": "rag", "template": "x"}]})"}) {
    EXPECT_EQ(ChatTemplate::FromTokenizerConfig(config).status().code(),
              absl::StatusCode::kNotFound)
        << config;
  }
  for (const char* config : {"{", "[]", R"({"chat_template": 1})"}) {
    EXPECT_EQ(ChatTemplate::FromTokenizerConfig(config).status().code(),
              absl::StatusCode::kInvalidArgument)
        << config;
  }
}

TEST(ChatTemplate, InvalidUtf8InMessagesIsReplaced) {
  const auto chat_template = ChatTemplate::Parse("{{ messages[0].content | length }}");
  EXPECT_EQ((*chat_template)->Render({{"user", "a\xFF\xE2\x82"}}, true).value(), "3");
  EXPECT_FALSE(ChatTemplate::Parse("\xFF").ok());
}

TEST(ChatTemplate, ErrorsCarryLineAndColumn) {
  struct Case {
    const char* source;
    const char* position;
    const char* reason;
  };
  for (const Case& c : std::vector<Case>{
           {"a\n  {% if x %}\n", "line 2, column 13", "expected 'endif'"},
           {"a\n\n {{ 1 + }}", "line 3, column 9", "expected an expression"},
           {"{{ 1 | shout }}", "line 1, column 6", "filter 'shout'"},
           {"{% include 'x' %}", "line 1, column 4", "'include'"},
           {"{{ '\u00e9\u00e9' ~ $ }}", "line 1, column 11", "'$'"},
           {"x\n{{ missing.name }}", "line 2, column 11", "'missing' is undefined"},
           {"{% for m in messages %}\n  {{ m.content + 1 }}\n{% endfor %}", "line 2, column 16",
            "str and int"},
           {"{{ raise_exception('no tools') }}", "line 1, column 19", "no tools"},
           {"{{ 99999999999999999999 }}", "line 1, column 4", "out of range"},
           {"{{ 9223372036854775807 + 1 }}", "line 1, column 24", "overflow"},
       }) {
    const absl::Status status = ErrorOf(c.source);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.source;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.position)) << c.source;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.reason)) << c.source;
  }
}

TEST(ChatTemplate, HostileTemplatesRunIntoALimit) {
  const std::string forever =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  const std::string doubling =
      "{% set ns = namespace(x='x') %}{% for i in range(200) %}{% set ns.x = ns.x + ns.x %}"
      "{% endfor %}{{ ns.x | length }}";
  for (const std::string& source : std::vector<std::string>{
           forever,
           "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
           "{% macro f(n) %}{% for i in range(9) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}",
           doubling,
           "{{ 'x' * 999999999999 }}",
           "{{ [1] * 999999999999 }}",
           "{{ ('x' * 9999999) | replace('x', 'y' * 9999999) }}",
           "{{ 'x' | indent(9223372036854775807, true) }}",
           "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}"
           "{% endfor %}",
           "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
           "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
           "{% endfor %}",
           "{% set s = 'a' * 9000000 %}{% for i in range(99999) %}{% if s + 'b' in s %}{% endif %}"
           "{% endfor %}",
           "{{ range(99999) | map('string') | join(',' * 9999) }}",
       }) {
    EXPECT_EQ(ErrorOf(source).code(), absl::StatusCode::kResourceExhausted) << source;
  }
}

TEST(ChatTemplate, LimitsAreTheCallers) {
  ChatTemplate::Limits limits;
  limits.max_output_bytes = 10;
  EXPECT_EQ(Render("1234567890", limits).value(), "1234567890");
  EXPECT_THAT(std::string(ErrorOf("12345678901", limits).message()), HasSubstr("10 bytes"));
  limits = {};
  limits.max_steps = 50;
  EXPECT_TRUE(Render("{% for i in range(5) %}{{ i }}{% endfor %}", limits).ok());
  EXPECT_THAT(std::string(ErrorOf("{% for i in range(50) %}{{ i }}{% endfor %}", limits).message()),
              HasSubstr("steps"));
  limits = {};
  limits.max_depth = 3;
  const std::string countdown =
      "{% macro f(n) %}{% if n > 1 %}{{ f(n - 1) }}{% endif %}.{% endmacro %}";
  EXPECT_EQ(Render(countdown + "{{ f(3) }}", limits).value(), "...");
  EXPECT_EQ(ErrorOf(countdown + "{{ f(4) }}", limits).code(), absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, DeepNestingIsRefusedByTheParser) {
  for (const std::string& source : std::vector<std::string>{
           absl::StrCat("{{ ", Repeat("(", 100000), "1", Repeat(")", 100000), " }}"),
           absl::StrCat("{{ ", Repeat("[", 1000), Repeat("]", 1000), " }}"),
           absl::StrCat("{{ ", Repeat("not ", 100000), "1 }}"),
           absl::StrCat("{{ ", Repeat("-", 100000), "1 }}"),
           absl::StrCat("{{ 1", Repeat(" + 1", 100000), " }}"),
           absl::StrCat("{{ x", Repeat(".a", 100000), " }}"),
           absl::StrCat("{{ x", Repeat(" | trim", 100000), " }}"),
           absl::StrCat("{{ 1", Repeat(" if 1 else 1", 100000), " }}"),
           Repeat("{% if 1 %}", 100000),
           Repeat("{% for x in y %}", 100000),
       }) {
    EXPECT_EQ(ErrorOf(source).code(), absl::StatusCode::kInvalidArgument) << source.substr(0, 40);
  }
  // Long is not deep.
  EXPECT_EQ(Render(absl::StrCat("{{ 'a'", Repeat(" ~ 'a'", 10000), " }}")).value(),
            Repeat("a", 10001));
  EXPECT_EQ(Render(Repeat("{% if 0 %}x{% endif %}", 10000)).value(), "");
}

TEST(ChatTemplate, NamespacesInACircleAreFreed) {
  // The leak checker of the sanitizer build is what looks here.
  EXPECT_TRUE(Render("{% set a = namespace() %}{% set a.self = a %}{% set b = namespace(a=[a]) %}"
                     "{% set a.b = {'b': b} %}{% for x in [a] %}{% set a.loop = loop %}"
                     "{% endfor %}ok")
                  .ok());
  EXPECT_EQ(ErrorOf("{% set a = namespace() %}{% set a.self = a %}{{ a }}").code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplate, TenMegabyteMessagesRender) {
  const auto chat_template = ChatTemplate::FromTokenizerConfig(kSmolLm2Config);
  const std::string content(10'000'000, 'x');
  const auto text = (*chat_template)->Render({{"user", content}}, true);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr(content));
}

TEST(ChatTemplate, OneTemplateServesManyThreads) {
  const auto chat_template = ChatTemplate::Parse(
      "{% set ns = namespace(n=0) %}{% for m in messages %}"
      "{% set ns.n = ns.n + m.content | length %}{{ m | tojson }}{% endfor %}"
      "{{ ns.n }}{{ [messages] }}");
  const std::string expected = (*chat_template)->Render(Conversation(), true).value();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 100; ++repeat) {
        EXPECT_EQ((*chat_template)->Render(Conversation(), true).value(), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ChatTemplate, CaseBeyondAsciiIsAnErrorNotAGuess) {
  EXPECT_EQ(Render("{{ 'abc' | upper }}").value(), "ABC");
  EXPECT_EQ(ErrorOf("{{ '\u00e9' | upper }}").code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, StrftimeNowIsTheLocalDate) {
  const auto today = [] {
    return absl::FormatTime("%d %b %Y", absl::Now(), absl::LocalTimeZone());
  };
  const std::string before = today();
  const std::string rendered = Render("{{ strftime_now('%d %b %Y') }}").value();
  EXPECT_THAT(rendered, testing::AnyOf(before, today()));
}

}  // namespace
}  // namespace quantloom
