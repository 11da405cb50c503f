// Tokenizer files from a GGUF model's metadata, in the form that Hugging Face keeps them.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "core/format/gguf.h"

namespace quantloom {

// File name -> contents of tokenizer.json, tokenizer_config.json (chat_template, spellings of the
// special tokens) and generation_config.json (their ids). The tokenizer.json loads with
// Tokenizer::FromJson.
//
// `tokenizer.ggml.model` must be "gpt2" (byte-level BPE) and `tokenizer.ggml.pre` one of the
// pre-tokenizers known here. NOT_FOUND naming a required key that is missing, INVALID_ARGUMENT
// naming the key for everything else.
absl::StatusOr<std::map<std::string, std::string>> TokenizerFilesFromGguf(const GgufFile& file);

}  // namespace quantloom
