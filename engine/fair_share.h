// How much each client has been served: virtual token counters (Sheng et al. 2024, "Fairness in
// Serving Large Language Models", algorithm 2). Who serves the client with the smallest counter
// first divides tokens evenly among clients that always have work, whatever the number and length
// of their requests. A client that comes back is lifted to the smallest counter of those that have
// work, so that time without work earns no credit.
//
// Thread-safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

namespace quantloom {

class FairShare {
 public:
  // At most so many clients without work are remembered, beside twice those with work. Who is
  // forgotten starts like a new client.
  static constexpr size_t kMaxIdle = 1024;

  struct Account {
    uint64_t served = 0;    // virtual tokens
    uint32_t requests = 0;  // that wait or run
  };

  // A request of the client begins to wait. The account is good until the matching Leave.
  Account& Join(const std::string& client);
  // One of the requests that joined has ended.
  void Leave(Account& account);

  size_t clients() const { return accounts_.size(); }  // remembered

 private:
  // The smallest counter of clients with work; 0 when there are none.
  uint64_t LeastServed() const;
  void Forget();

  std::unordered_map<std::string, Account> accounts_;
  size_t active_ = 0;  // accounts with requests
};

}  // namespace quantloom
