// GgufFile::Parse on any bytes, then everything that is made from what it accepts: tensor values,
// the model's configuration, the tokenizer's files.
#include <cstdint>
#include <cstdlib>

#include "core/format/gguf.h"
#include "core/format/gguf_llama.h"
#include "core/text/gguf_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = quantloom::GgufFile::Parse({data, size});
  if (!file.ok()) return 0;
  for (const quantloom::GgufTensor& tensor : file->tensors()) {
    const auto values = file->ReadFloats(tensor.name);
    if (!values.ok() || values->size() != tensor.size()) std::abort();
  }
  for (const char* key : {"a", "general.name", "tokenizer.ggml.scores"}) {
    (void)file->String(key);
    (void)file->Unsigned(key);
    (void)file->Number(key);
    (void)file->Bool(key);
    (void)file->Strings(key);
    (void)file->Integers(key);
    (void)file->Numbers(key);
  }
  const auto config = quantloom::ModelConfigFromGguf(*file);
  if (config.ok() && !config->Validate().ok()) std::abort();
  (void)quantloom::TokenizerFilesFromGguf(*file);
  return 0;
}
