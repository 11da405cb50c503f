// Runs the text components for the Python oracles: one JSON request a line on standard input, one
// JSON answer a line on standard output.
//
//   text_probe tokenizer tokenizer.json
//     {"hex": "...", "parse_special": true}  ->  {"ids": [...], "decoded": "hex", "streamed":
//     "..."} decoded and streamed leave special tokens out when "skip_special" is true.
//   text_probe template
//     {"config": {tokenizer_config.json}, "messages": [{"role": "...", "content": "..."}],
//      "add_generation_prompt": true}  ->  {"text": "..."} or {"error": "..."}
//   text_probe gguf model.gguf
//     prints the tokenizer files made from its metadata, {"tokenizer.json": "...", ...}.
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "core/base/file.h"
#include "core/format/gguf.h"
#include "core/text/chat_template.h"
#include "core/text/gguf_tokenizer.h"
#include "core/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

using nlohmann::json;

json TokenizerAnswer(const Tokenizer& tokenizer, const json& request) {
  const std::string text = absl::HexStringToBytes(request.at("hex").get<std::string>());
  const bool skip_special = request.value("skip_special", false);
  const std::vector<int32_t> ids = tokenizer.Encode(text, request.at("parse_special").get<bool>());
  StreamingDetokenizer stream(tokenizer, skip_special);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.Push(id);
  streamed += stream.Flush();
  return {{"ids", ids},
          {"decoded", absl::BytesToHexString(tokenizer.Decode(ids, skip_special).value())},
          {"streamed", streamed}};
}

int RunTokenizer(const char* path) {
  const auto text = ReadFile(path);
  if (!text.ok()) {
    std::cerr << text.status() << "\n";
    return 1;
  }
  const auto tokenizer = Tokenizer::FromJson(*text);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << TokenizerAnswer(**tokenizer, json::parse(line)).dump() << "\n";
  }
  return 0;
}

json TemplateAnswer(const json& request) {
  const auto chat_template = ChatTemplate::FromTokenizerConfig(request.at("config").dump());
  if (!chat_template.ok()) return {{"error", chat_template.status().ToString()}};
  std::vector<ChatMessage> messages;
  for (const json& message : request.at("messages")) {
    messages.push_back(
        {message.at("role").get<std::string>(), message.at("content").get<std::string>()});
  }
  const auto text =
      (*chat_template)->Render(messages, request.at("add_generation_prompt").get<bool>());
  if (!text.ok()) return {{"error", text.status().ToString()}};
  return {{"text", *text}};
}

int RunTemplates() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << TemplateAnswer(json::parse(line)).dump() << "\n";
  }
  return 0;
}

int RunGguf(const char* path) {
  const auto file = GgufFile::Open(path);
  if (!file.ok()) {
    std::cerr << file.status() << "\n";
    return 1;
  }
  const auto files = TokenizerFilesFromGguf(*file);
  if (!files.ok()) {
    std::cerr << files.status() << "\n";
    return 1;
  }
  std::cout << json(*files).dump() << "\n";
  return 0;
}

int Main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "tokenizer" && argc == 3) return RunTokenizer(argv[2]);
  if (mode == "gguf" && argc == 3) return RunGguf(argv[2]);
  if (mode == "template" && argc == 2) return RunTemplates();
  std::cerr << "usage: text_probe tokenizer FILE | gguf FILE | template\n";
  return 2;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) { return quantloom::Main(argc, argv); }
