#include "core/codec/registry.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

const std::vector<CodecRegistration>& Registrations() {
#define QUANTLOOM_REGISTER_CODEC(Name) Name##Registration(),
  static const auto* const kRegistrations =
      new std::vector<CodecRegistration>{QUANTLOOM_CODECS(QUANTLOOM_REGISTER_CODEC)};
#undef QUANTLOOM_REGISTER_CODEC
  return *kRegistrations;
}

absl::StatusOr<const CodecRegistration*> FindCodec(absl::string_view name) {
  std::string known;
  for (const CodecRegistration& registration : Registrations()) {
    if (registration.info.name == name) return &registration;
    absl::StrAppend(&known, known.empty() ? "" : ", ", registration.info.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown codec '", name, "': this build has ", known));
}

}  // namespace

absl::Span<const CodecInfo> RegisteredCodecs() {
  static const auto* const kInfos = [] {
    auto* infos = new std::vector<CodecInfo>;
    for (const CodecRegistration& registration : Registrations()) {
      infos->push_back(registration.info);
    }
    return infos;
  }();
  return *kInfos;
}

absl::StatusOr<std::unique_ptr<Codec>> CreateCodec(absl::string_view recipe) {
  QL_ASSIGN_OR_RETURN(const Recipe parsed, Recipe::Parse(recipe));
  QL_ASSIGN_OR_RETURN(const CodecRegistration* codec, FindCodec(parsed.codec));
  return codec->create(parsed);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenMatrix(absl::string_view resolved_recipe,
                                                         uint64_t rows, uint64_t cols,
                                                         absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const Recipe parsed, Recipe::Parse(resolved_recipe));
  QL_ASSIGN_OR_RETURN(const CodecRegistration* codec, FindCodec(parsed.codec));
  return codec->open(parsed, rows, cols, planes);
}

}  // namespace quantloom
