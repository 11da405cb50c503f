// How much each client may ask for: calls per second, by a token bucket, and calls at a time.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quantloom {

struct ClientLimits {
  double requests_per_second = 0;  // on average; 0: no limit
  double burst = 0;                // calls that may come at once, at least 1; 0: a second's
  int concurrent_requests = 0;     // 0: no limit

  // The burst in effect.
  double bucket_size() const;
};

// Thread-safe. The clients that are remembered are bounded: of those beyond, whoever has been
// silent longest is forgotten and starts like a new client.
class ClientLimiter {
 public:
  enum class Refusal { kNone, kRate, kConcurrency, kClients };
  static constexpr size_t kMaxClients = 16384;

  explicit ClientLimiter(size_t max_clients = kMaxClients) : max_clients_(max_clients) {}
  ClientLimiter(const ClientLimiter&) = delete;
  ClientLimiter& operator=(const ClientLimiter&) = delete;

  // A call that counts as running until its Permit is destroyed, which must happen before the
  // limiter is.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept;
    Permit& operator=(Permit&& other) noexcept;
    ~Permit();

   private:
    friend class ClientLimiter;
    Permit(ClientLimiter* limiter, const std::string* client)
        : limiter_(limiter), client_(client) {}
    ClientLimiter* limiter_ = nullptr;
    const std::string* client_ = nullptr;
  };

  // RESOURCE_EXHAUSTED with a retry delay when the client has used up its limits, or when as many
  // other clients as can be remembered have calls running; `refusal` then says why.
  absl::StatusOr<Permit> Acquire(const std::string& client, const ClientLimits& limits,
                                 absl::Time now, Refusal& refusal);

  size_t clients() const;  // remembered

 private:
  struct Client {
    double tokens = 0;
    absl::Time refilled;
    int running = 0;
    std::list<const std::string*>::iterator place;  // in recent_
  };
  using Clients = std::unordered_map<std::string, Client>;

  Clients::iterator Find(const std::string& client, const ClientLimits& limits, absl::Time now);
  bool MakeRoom();
  void Release(const std::string& client);

  const size_t max_clients_;
  mutable std::mutex mutex_;
  Clients clients_;
  std::list<const std::string*> recent_;  // keys of clients_; the one seen last is first
};

}  // namespace quantloom
