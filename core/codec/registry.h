// The list of codecs. Adding one: its file, which defines `CodecRegistration <Name>Registration()`,
// and its line in QUANTLOOM_CODECS. docs/adding-a-codec.md walks through it.
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

#define QUANTLOOM_CODECS(CODEC) \
  CODEC(Icquant)                \
  CODEC(Qtip)                   \
  CODEC(Quip)                   \
  CODEC(Rtn)

#define QUANTLOOM_DECLARE_CODEC(Name) CodecRegistration Name##Registration();
QUANTLOOM_CODECS(QUANTLOOM_DECLARE_CODEC)
#undef QUANTLOOM_DECLARE_CODEC

}  // namespace quantloom
