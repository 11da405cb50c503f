#include "engine/token_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/ops.h"

namespace quantloom {
namespace {

struct Candidate {
  int32_t token;
  float scaled;   // (logit - max) / temperature
  float weight;   // exp of it
  uint64_t mass;  // of kTokenMassBits bits
};
__extension__ using Wide = unsigned __int128;
using Candidates = std::vector<Candidate>;

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.scaled != b.scaled ? a.scaled > b.scaled : a.token < b.token;
}

uint64_t Mass(const Candidates& candidates) {
  return std::accumulate(candidates.begin(), candidates.end(), uint64_t{0},
                         [](uint64_t sum, const Candidate& c) { return sum + c.mass; });
}

// All that are numbers, by id.
void FindCandidates(absl::Span<const float> logits, float max, float temperature,
                    Candidates& candidates) {
  candidates.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float scaled = (logits[i] - max) / temperature;
    if (std::isnan(scaled)) continue;
    candidates.push_back({static_cast<int32_t>(i), scaled, 0, 0});
  }
}

void KeepTopK(size_t k, Candidates& candidates) {
  if (k == 0 || k >= candidates.size()) return;
  const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(k);
  std::nth_element(candidates.begin(), end - 1, candidates.end(), Likelier);
  candidates.erase(end, candidates.end());
}

void Weigh(Candidates& candidates) {
  constexpr auto kOne = static_cast<float>(uint64_t{1} << kTokenMassBits);
  for (Candidate& candidate : candidates) {
    candidate.weight = cpu::Exp(candidate.scaled);
    candidate.mass = static_cast<uint64_t>(candidate.weight * kOne);
  }
}

// The smallest set of the likeliest that holds the share of the mass: taken from a heap one by one,
// since it is small next to the vocabulary.
void KeepTopP(uint64_t share, Candidates& candidates) {
  if (share == 0) return;
  const auto product = static_cast<Wide>(share) * Mass(candidates);
  const uint64_t needed =
      static_cast<uint64_t>(product >> 64) + (static_cast<uint64_t>(product) != 0 ? 1 : 0);
  const auto less_likely = [](const Candidate& a, const Candidate& b) { return Likelier(b, a); };
  std::make_heap(candidates.begin(), candidates.end(), less_likely);
  uint64_t mass = 0;
  auto heap_end = candidates.end();
  while (heap_end != candidates.begin() && mass < needed) {
    std::pop_heap(candidates.begin(), heap_end, less_likely);
    mass += (--heap_end)->mass;
  }
  candidates.erase(candidates.begin(), heap_end);
}

int32_t Draw(uint64_t random, const Candidates& candidates) {
  const auto product = static_cast<Wide>(random) * Mass(candidates);
  const auto drawn = static_cast<uint64_t>(product >> 64);  // less than the mass
  uint64_t mass = 0;
  for (const Candidate& candidate : candidates) {
    mass += candidate.mass;
    if (mass > drawn) return candidate.token;
  }
  return candidates.back().token;  // not reached: the likeliest has mass
}

int32_t DrawFrom(absl::Span<const float> logits, float max, const TokenChoice& choice) {
  thread_local Candidates candidates;
  FindCandidates(logits, max, choice.temperature, candidates);
  KeepTopK(static_cast<size_t>(choice.top_k), candidates);
  Weigh(candidates);
  KeepTopP(TopPShare(choice.top_p), candidates);
  const float least = choice.min_p;  // the likeliest weighs exp(0) = 1
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&](const Candidate& c) { return c.weight < least; }),
                   candidates.end());
  if (choice.top_k > 0 || choice.top_p < 1) {
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  }
  return Draw(choice.random, candidates);
}

}  // namespace

uint64_t TopPShare(float top_p) {
  if (top_p >= 1) return 0;
  return std::max<uint64_t>(static_cast<uint64_t>(top_p * 0x1p64f), 1);
}

ChosenToken ChooseToken(absl::Span<float> logits, const TokenChoice& choice) {
  constexpr float kBanned = -std::numeric_limits<float>::infinity();
  for (const LogitEdit& edit : choice.edits) {
    float& logit = logits[static_cast<size_t>(edit.token)];
    logit = edit.addend == kBanned ? kBanned : logit + edit.addend;
  }
  const size_t best = cpu::ArgMax(logits.data(), logits.size());
  auto token = static_cast<int32_t>(best);
  if (choice.temperature != 0 && std::isfinite(logits[best])) {
    token = DrawFrom(logits, logits[best], choice);
  }
  return {token, logits[static_cast<size_t>(token)]};
}

}  // namespace quantloom
