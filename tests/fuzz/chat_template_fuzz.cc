// Any bytes as a chat template, rendered with small limits: an error or valid UTF-8 within them.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/text/chat_template.h"
#include "core/text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat_template = quantloom::ChatTemplate::Parse(source);
  if (!chat_template.ok()) return 0;
  quantloom::ChatTemplate::Limits limits;
  limits.max_steps = 20'000;
  limits.max_output_bytes = 1 << 16;
  limits.max_depth = 16;
  const std::vector<quantloom::ChatMessage> messages = {
      {"system", " Be br\xC3\xA9zf. "}, {"user", "a,b\n<c>"}, {"assistant", "d"}};
  const auto text = (*chat_template)->Render(messages, true, limits);
  if (!text.ok()) return 0;
  if (text->size() > limits.max_output_bytes || !quantloom::IsValidUtf8(*text)) std::abort();
  return 0;
}
