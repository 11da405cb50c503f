// The text of a generated sequence, ready to be shown piece by piece: complete characters only, and
// nothing that may turn out to belong to a stop string.
//
// Not thread-safe; one per sequence.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/text/tokenizer.h"

namespace quantloom {

// Finds the first occurrence of any stop string in text that arrives in pieces. The result does not
// depend on how the text is cut: of several occurrences the one that ends first counts, of those
// the longest.
class StopStringFilter {
 public:
  explicit StopStringFilter(std::vector<std::string> stop_strings);

  // Adds `text` and returns what is now known to precede any stop string. Once stopped() has a
  // value, text after it is ignored.
  std::string Push(absl::string_view text);
  // The text still held back, when no more comes.
  std::string Flush();
  const std::optional<std::string>& stopped() const { return stopped_; }

 private:
  std::vector<std::string> stop_strings_;
  std::string held_;  // not yet returned
  std::optional<std::string> stopped_;
};

class OutputText {
 public:
  OutputText(const Tokenizer& tokenizer, std::vector<std::string> stop_strings)
      : detokenizer_(tokenizer), filter_(std::move(stop_strings)) {}

  // The text that became certain with a token; special tokens have none. Stop strings are looked
  // for in the text of tokens that `may_stop`, which those before them may not.
  std::string Push(int32_t token, bool may_stop = true) {
    std::string text = detokenizer_.Push(token);
    return may_stop ? filter_.Push(text) : text;
  }
  // The rest, when no more tokens come: an unfinished character becomes U+FFFD. May itself complete
  // a stop string.
  std::string Finish();
  // The stop string that the text ran into, if it did.
  const std::optional<std::string>& stopped() const { return filter_.stopped(); }

 private:
  StreamingDetokenizer detokenizer_;
  StopStringFilter filter_;
};

}  // namespace quantloom
