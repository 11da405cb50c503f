// Byte-level BPE tokenizers as Hugging Face's tokenizer.json defines them.
//
//   QL_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromJson(text));
//   std::vector<int32_t> ids = tokenizer->Encode("Hello", /*parse_special=*/true);
//   StreamingDetokenizer stream(*tokenizer);
//   std::string piece = stream.Push(id);  // complete UTF-8 only
//
// Thread-safety: Tokenizer is immutable and may be shared; StreamingDetokenizer belongs to one
// stream.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantloom {

class Tokenizer {
 public:
  // Parses tokenizer.json (model type BPE, byte-level; pre-tokenizers of GPT-2, SmolLM and Llama
  // 3). INVALID_ARGUMENT naming the part that is malformed or unsupported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(absl::string_view json);
  virtual ~Tokenizer() = default;

  // Token ids of `text`, any bytes (invalid UTF-8 is encoded byte by byte as the byte-level
  // alphabet defines, after the same replacement the reference does, if it does one). With
  // `parse_special`, occurrences of special tokens in the text become their ids; without, they are
  // ordinary text. Adds no BOS/EOS. Time O(n log n) in the text's length, whatever the text.
  virtual std::vector<int32_t> Encode(absl::string_view text, bool parse_special) const = 0;

  // The bytes of the ids, concatenated. Ids outside the vocabulary: INVALID_ARGUMENT. Special
  // tokens are left out when `skip_special`.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                             bool skip_special) const = 0;

  // The raw bytes one token stands for; empty for an id outside the vocabulary.
  virtual std::string TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> TokenId(
      absl::string_view token) const = 0;  // by its spelling, special or not
  virtual int32_t vocab_size() const = 0;
  // Whether the post-processor puts a BOS token before a text, and which.
  virtual std::optional<int32_t> bos_to_add() const = 0;
};

// Turns a stream of ids into text that is valid UTF-8 at every point: bytes of an unfinished
// character are held back.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special = true);
  // The text that became complete with `id`; may be empty.
  std::string Push(int32_t id);
  // What is still held back, each broken sequence as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace quantloom
