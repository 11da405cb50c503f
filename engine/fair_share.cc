#include "engine/fair_share.h"

#include <algorithm>
#include <limits>

namespace quantloom {

uint64_t FairShare::LeastServed() const {
  if (active_ == 0) return 0;
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (const auto& [unused, account] : accounts_) {
    if (account.requests > 0) least = std::min(least, account.served);
  }
  return least;
}

FairShare::Account& FairShare::Join(const std::string& client) {
  const uint64_t least = LeastServed();
  Account& account = accounts_[client];
  if (account.requests++ == 0) {
    account.served = std::max(account.served, least);
    ++active_;
  }
  return account;
}

void FairShare::Leave(Account& account) {
  if (--account.requests > 0) return;
  --active_;
  Forget();
}

void FairShare::Forget() {
  // Nobody competes: all begin anew.
  if (active_ == 0) return accounts_.clear();
  if (accounts_.size() <= 2 * active_ + kMaxIdle) return;
  // Those that would be lifted when they come back have nothing to remember. When that is not
  // enough, everybody without work is forgotten.
  const uint64_t least = LeastServed();
  std::erase_if(accounts_, [least](const auto& entry) {
    return entry.second.requests == 0 && entry.second.served <= least;
  });
  if (accounts_.size() <= active_ + kMaxIdle) return;
  std::erase_if(accounts_, [](const auto& entry) { return entry.second.requests == 0; });
}

}  // namespace quantloom
