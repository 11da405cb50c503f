// Tokens that continue a listing: opaque to clients, refused when a client made them up or uses
// them with another query.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace quantloom {

// `position` signed with the store's secret for the query that `query` spells.
std::string MakePageToken(const std::string& secret, const std::string& query, int64_t position);

// The position. INVALID_ARGUMENT unless MakePageToken gave the token for the same secret and query.
absl::StatusOr<int64_t> ReadPageToken(const std::string& secret, const std::string& query,
                                      const std::string& token);

}  // namespace quantloom
