// Speed of the text components: bytes of text per second.
//
//   QUANTLOOM_TEST_MODEL=model.gguf [QUANTLOOM_TEST_TEXT=file.txt] tokenizer_bench
//
// measures the tokenizer and the chat template of that model, on the first MiB of that text or on a
// built-in mixture.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/base/file.h"
#include "core/format/gguf.h"
#include "core/text/chat_template.h"
#include "core/text/gguf_tokenizer.h"
#include "core/text/tokenizer.h"

namespace quantloom {
namespace {

constexpr size_t kTextBytes = 1 << 20;

std::string Text() {
  std::string text;
  if (const char* path = std::getenv("QUANTLOOM_TEST_TEXT")) {
    text = ReadFile(path).value().substr(0, kTextBytes);
  }
  const std::string paragraph =
      "The committee met on 14 March 1987 and didn't agree; \"nothing new\", they said.\n"
      "Zw\xC3\xB6lf Boxk\xC3\xA4mpfer jagen Viktor quer \xC3\xBC"
      "ber den Deich \xE2\x80\x94 "
      "\xE5\xA4\xA9\xE5\x9C\xB0\xE7\x8E\x84\xE9\xBB\x84\xE3\x80\x82\n\n"
      "    for (int i = 0; i < 10; ++i) sum += values[i];\n";
  for (size_t i = 0; text.size() < kTextBytes; ++i) text += paragraph + std::to_string(i * i) + " ";
  return text;
}

void Encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t tokens = 0;
  for (auto _ : state) {
    const std::vector<int32_t> ids = tokenizer.Encode(text, /*parse_special=*/true);
    tokens = ids.size();
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes/token"] = static_cast<double>(text.size()) / static_cast<double>(tokens);
}

void Stream(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.Encode(text, /*parse_special=*/true);
  for (auto _ : state) {
    StreamingDetokenizer stream(tokenizer);
    for (const int32_t id : ids) benchmark::DoNotOptimize(stream.Push(id));
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * ids.size()));
}

void Load(benchmark::State& state, const std::string& json) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::FromJson(json).value());
}

void RenderTemplate(benchmark::State& state, const ChatTemplate& chat_template) {
  const std::vector<ChatMessage> messages(32, {"user", std::string(200, 'x')});
  for (auto _ : state) benchmark::DoNotOptimize(chat_template.Render(messages, true).value());
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * messages.size()));
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const char* path = std::getenv("QUANTLOOM_TEST_MODEL");
  if (path == nullptr) {
    std::cerr << "QUANTLOOM_TEST_MODEL must name a GGUF file with a byte-level tokenizer\n";
    return 2;
  }
  const auto file = GgufFile::Open(path);
  const auto files = file.ok() ? TokenizerFilesFromGguf(*file) : file.status();
  if (!files.ok()) {
    std::cerr << files.status() << "\n";
    return 1;
  }
  const std::string json = files->at("tokenizer.json");
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::FromJson(json).value();
  const std::string text = Text();
  // Without spaces: one piece, all the work in the merge loop.
  const std::string word(kTextBytes, 'a');
  std::string letters = text;
  letters.erase(
      std::remove_if(letters.begin(), letters.end(), [](char c) { return c < 'a' || c > 'z'; }),
      letters.end());
  const auto add = [](const char* name, auto&& function) {
    benchmark::RegisterBenchmark(name, function)->Unit(benchmark::kMillisecond);
  };
  add("encode/text", [&](benchmark::State& state) { Encode(state, *tokenizer, text); });
  add("encode/letters without a space",
      [&](benchmark::State& state) { Encode(state, *tokenizer, letters); });
  add("encode/one letter, 1 MiB",
      [&](benchmark::State& state) { Encode(state, *tokenizer, word); });
  add("stream", [&](benchmark::State& state) { Stream(state, *tokenizer, text); });
  add("load tokenizer.json", [&](benchmark::State& state) { Load(state, json); });
  const auto chat_template = ChatTemplate::FromTokenizerConfig(files->at("tokenizer_config.json"));
  if (chat_template.ok()) {
    add("render chat template",
        [&](benchmark::State& state) { RenderTemplate(state, **chat_template); });
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) { return quantloom::Main(argc, argv); }
