#include "services/server/token_message.h"

namespace quantloom {

void AddTopTokens(const std::vector<TokenLogprob>& top, const Tokenizer& tokenizer,
                  v1::GeneratedToken& message) {
  for (const TokenLogprob& alternative : top) {
    v1::TokenLogprob& added = *message.add_top();
    added.set_id(alternative.token);
    added.set_logprob(alternative.logprob);
    added.set_token(tokenizer.TokenBytes(alternative.token));
  }
}

}  // namespace quantloom
