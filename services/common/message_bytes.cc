#include "services/common/message_bytes.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/text/utf8.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// Path of the first string field of `fields`, which has the type `type`, that is not UTF-8.
std::optional<std::string> FindInvalidText(const UnknownFieldSet& fields, const Descriptor& type) {
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    const FieldDescriptor* declared = type.FindFieldByNumber(field.number());
    if (declared == nullptr || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    if (declared->type() == FieldDescriptor::TYPE_STRING) {
      if (!IsValidUtf8(field.length_delimited())) return declared->name();
    } else if (declared->type() == FieldDescriptor::TYPE_MESSAGE) {
      UnknownFieldSet nested;
      if (!nested.ParseFromString(field.length_delimited())) continue;
      if (auto path = FindInvalidText(nested, *declared->message_type())) {
        return absl::StrCat(declared->name(), ".", *path);
      }
    }
  }
  return std::nullopt;
}

}  // namespace

absl::Status DecodeMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  grpc::ByteBuffer copy(bytes);  // shares the slices; reading needs a mutable buffer
  grpc::ProtoBufferReader reader(&copy);
  {
    const google::protobuf::LogSilencer quiet;  // it would log what clients send
    if (reader.status().ok() && message.ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  }
  UnknownFieldSet fields;
  grpc::ProtoBufferReader again(&copy);
  if (again.status().ok() && fields.ParseFromZeroCopyStream(&again)) {
    if (const auto path = FindInvalidText(fields, *message.GetDescriptor())) {
      return InvalidField(*path, "is not valid UTF-8");
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("not a valid ", std::string(message.GetDescriptor()->full_name())));
}

grpc::ByteBuffer EncodeMessage(const google::protobuf::Message& message) {
  const std::string bytes = message.SerializeAsString();
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace quantloom
