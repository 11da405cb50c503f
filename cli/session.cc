#include "cli/session.h"

#include "absl/strings/str_cat.h"
#include "cli/units.h"
#include "google/protobuf/util/json_util.h"

namespace quantloom::cli {

void Session::OutJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string line;
  // Fails only for an Any of unknown type, and the contract has none.
  if (google::protobuf::util::MessageToJsonString(message, &line, options).ok()) {
    console_.Out(line + "\n");
  }
}

void Session::Note(std::string_view text) {
  if (!json_) console_.Err(absl::StrCat(std::string(text), "\n"));
}

absl::Status Session::Connect() {
  absl::StatusOr<ChannelSecurity> security = LoadSecurity(security_options);
  if (!security.ok()) return security.status();
  connection_ = std::make_unique<Connection>(
      connection_options, *std::move(security), [this](std::string_view text) { Note(text); },
      [this](const absl::Status& status, absl::Duration pause) {
        Note(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message(),
                          "; trying again in ", FormatElapsed(pause)));
      });
  return absl::OkStatus();
}

}  // namespace quantloom::cli
