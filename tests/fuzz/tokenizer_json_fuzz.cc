// Any bytes as a tokenizer.json: an error, or a tokenizer whose every answer can be decoded.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = quantloom::Tokenizer::FromJson(json);
  if (!tokenizer.ok()) return 0;
  for (const absl::string_view text :
       {json.substr(0, 1000), absl::string_view("Hello <|a|>  w\xC3\xB6rld\xFF 123\n\n's")}) {
    for (const bool parse_special : {false, true}) {
      const std::vector<int32_t> ids = (*tokenizer)->Encode(text, parse_special);
      if (!(*tokenizer)->Decode(ids, parse_special).ok()) std::abort();
      quantloom::StreamingDetokenizer stream(**tokenizer);
      for (const int32_t id : ids) stream.Push(id);
      stream.Flush();
    }
  }
  return 0;
}
