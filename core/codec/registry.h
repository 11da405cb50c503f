// The list of codecs. Adding one: a unit that offers a CodecRegistration, and its line in
// registry.cc. docs/adding-a-codec.md walks through it.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/codec/codec.h"

namespace quantloom {

struct CodecRegistration {
  CodecInfo info;
  // INVALID_ARGUMENT naming the key or value that is wrong. The recipe's codec is info.name.
  absl::StatusOr<std::unique_ptr<Codec>> (*create)(const Recipe& recipe);
  // As OpenMatrix.
  absl::StatusOr<std::unique_ptr<PackedMatrix>> (*open)(const Recipe& recipe, uint64_t rows,
                                                        uint64_t cols,
                                                        absl::Span<const PlaneView> planes);
};

}  // namespace quantloom
