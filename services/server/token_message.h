// Log-probabilities of tokens as the contract's messages.
#pragma once

#include <vector>

#include "core/text/tokenizer.h"
#include "engine/sampler.h"
#include "quantloom/v1/generation.pb.h"

namespace quantloom {

// Appends the alternatives, each with its token's bytes.
void AddTopTokens(const std::vector<TokenLogprob>& top, const Tokenizer& tokenizer,
                  v1::GeneratedToken& message);

}  // namespace quantloom
