#include "services/common/client_limiter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

// When calls at a time are the limit, nobody knows when one of them will end.
constexpr absl::Duration kConcurrencyRetryDelay = absl::Seconds(1);
// Clients looked at, from the one seen longest ago, for one that has no call running.
constexpr int kMaxExamined = 64;

}  // namespace

double ClientLimits::bucket_size() const {
  return std::max(1.0, burst > 0 ? burst : requests_per_second);
}

ClientLimiter::Permit::Permit(Permit&& other) noexcept
    : limiter_(std::exchange(other.limiter_, nullptr)), client_(other.client_) {}

ClientLimiter::Permit& ClientLimiter::Permit::operator=(Permit&& other) noexcept {
  std::swap(limiter_, other.limiter_);
  std::swap(client_, other.client_);
  return *this;
}

ClientLimiter::Permit::~Permit() {
  if (limiter_ != nullptr) limiter_->Release(*client_);
}

absl::StatusOr<ClientLimiter::Permit> ClientLimiter::Acquire(const std::string& client,
                                                             const ClientLimits& limits,
                                                             absl::Time now, Refusal& refusal) {
  refusal = Refusal::kNone;
  if (limits.requests_per_second <= 0 && limits.concurrent_requests <= 0) return Permit();
  const std::lock_guard lock(mutex_);
  const auto found = Find(client, limits, now);
  if (found == clients_.end()) {
    refusal = Refusal::kClients;
    return WithRetryDelay(absl::ResourceExhaustedError("too many clients have calls running"),
                          kConcurrencyRetryDelay);
  }
  Client& state = found->second;
  if (limits.concurrent_requests > 0 && state.running >= limits.concurrent_requests) {
    refusal = Refusal::kConcurrency;
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                              "this client has ", state.running, " calls running and may have ",
                              limits.concurrent_requests)),
                          kConcurrencyRetryDelay);
  }
  if (limits.requests_per_second > 0) {
    const double earned =
        absl::ToDoubleSeconds(std::max(now - state.refilled, absl::ZeroDuration())) *
        limits.requests_per_second;
    state.tokens = std::min(limits.bucket_size(), state.tokens + earned);
    state.refilled = now;
    if (state.tokens < 1) {
      refusal = Refusal::kRate;
      return WithRetryDelay(
          absl::ResourceExhaustedError(absl::StrCat(
              "this client may make ", limits.requests_per_second, " calls a second on average")),
          absl::Seconds((1 - state.tokens) / limits.requests_per_second));
    }
    state.tokens -= 1;
  }
  ++state.running;
  return Permit(this, &found->first);
}

// The client's entry, made if it must be; clients_.end() when there is no room for it.
ClientLimiter::Clients::iterator ClientLimiter::Find(const std::string& client,
                                                     const ClientLimits& limits, absl::Time now) {
  auto found = clients_.find(client);
  if (found == clients_.end()) {
    if (clients_.size() >= max_clients_ && !MakeRoom()) return clients_.end();
    found = clients_.emplace(client, Client{limits.bucket_size(), now, 0, {}}).first;
    recent_.push_front(&found->first);
    found->second.place = recent_.begin();
  } else {
    recent_.splice(recent_.begin(), recent_, found->second.place);
  }
  return found;
}

bool ClientLimiter::MakeRoom() {
  int examined = 0;
  for (auto place = recent_.end(); place != recent_.begin() && examined < kMaxExamined;
       ++examined) {
    --place;
    const auto client = clients_.find(**place);
    if (client->second.running > 0) continue;
    recent_.erase(place);
    clients_.erase(client);
    return true;
  }
  return false;
}

void ClientLimiter::Release(const std::string& client) {
  const std::lock_guard lock(mutex_);
  --clients_.find(client)->second.running;
}

size_t ClientLimiter::clients() const {
  const std::lock_guard lock(mutex_);
  return clients_.size();
}

}  // namespace quantloom
