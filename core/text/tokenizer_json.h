// tokenizer.json, read and validated: what a byte-level BPE tokenizer is made of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/added_tokens.h"
#include "core/text/pre_tokenizer.h"

namespace quantloom {

struct TokenizerDefinition {
  struct VocabEntry {
    std::string spelling;  // valid UTF-8; byte-level tokens in the alphabet of byte_level.h
    int32_t id;
  };
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t merged;
  };

  std::vector<VocabEntry> vocab;         // each spelling and each id once
  std::vector<Merge> merges;             // highest priority first
  std::vector<AddedToken> added_tokens;  // each spelling once; ids as the vocabulary has them
  std::optional<int32_t> unknown_id;
  bool fuse_unknown = false;
  bool ignore_merges = false;  // a piece that is in the vocabulary is that token at once
  int32_t vocab_size = 0;      // one more than the largest id
  std::optional<int32_t> bos_to_add;
  PreTokenizer pre_tokenizer;
};

// INVALID_ARGUMENT naming the member that is malformed or not supported. Settings for truncation
// and padding have no effect here and are not read.
absl::StatusOr<TokenizerDefinition> ParseTokenizerJson(absl::string_view text);

}  // namespace quantloom
