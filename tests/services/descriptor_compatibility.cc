#include "tests/services/descriptor_compatibility.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace quantloom {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptorProto;

// Every name in a set of files, with a spelling of everything about it that clients rely on.
class Surface {
 public:
  explicit Surface(const FileDescriptorSet& files) {
    for (const auto& file : files.file()) {
      for (const auto& message : file.message_type()) AddMessage(file.package(), message);
      for (const auto& enumeration : file.enum_type()) AddEnum(file.package(), enumeration);
      for (const auto& service : file.service()) {
        const std::string name = absl::StrCat(file.package(), ".", service.name());
        entries_[name] = "service";
        for (const auto& method : service.method()) AddMethod(name, method);
      }
    }
  }

  const std::map<std::string, std::string>& entries() const { return entries_; }

 private:
  void AddMessage(const std::string& scope, const DescriptorProto& message) {
    const std::string name = absl::StrCat(scope, ".", message.name());
    entries_[name] = "message";
    for (const auto& nested : message.nested_type()) AddMessage(name, nested);
    for (const auto& enumeration : message.enum_type()) AddEnum(name, enumeration);
    for (const auto& field : message.field()) AddField(name, message, field);
  }

  void AddField(const std::string& scope, const DescriptorProto& message,
                const FieldDescriptorProto& field) {
    const bool in_oneof = field.has_oneof_index() && !field.proto3_optional();
    entries_[absl::StrCat(scope, " field ", field.number())] = absl::StrCat(
        field.name(), " ", FieldDescriptorProto::Type_Name(field.type()), field.type_name(), " ",
        FieldDescriptorProto::Label_Name(field.label()), field.proto3_optional() ? " optional" : "",
        in_oneof ? " in " + message.oneof_decl(field.oneof_index()).name() : "");
  }

  void AddEnum(const std::string& scope, const EnumDescriptorProto& enumeration) {
    const std::string name = absl::StrCat(scope, ".", enumeration.name());
    entries_[name] = "enum";
    for (const auto& value : enumeration.value()) {
      entries_[absl::StrCat(name, " value ", value.number())] = value.name();
    }
  }

  void AddMethod(const std::string& scope, const MethodDescriptorProto& method) {
    entries_[absl::StrCat(scope, ".", method.name())] =
        absl::StrCat("method ", method.client_streaming() ? "stream " : "", method.input_type(),
                     " -> ", method.server_streaming() ? "stream " : "", method.output_type());
  }

  std::map<std::string, std::string> entries_;
};

}  // namespace

std::vector<std::string> IncompatibleChanges(const FileDescriptorSet& before,
                                             const FileDescriptorSet& after) {
  const Surface old_surface(before);
  const Surface new_surface(after);
  std::vector<std::string> changes;
  for (const auto& [name, meaning] : old_surface.entries()) {
    const auto found = new_surface.entries().find(name);
    if (found == new_surface.entries().end()) {
      changes.push_back(absl::StrCat(name, " (", meaning, ") is gone"));
    } else if (found->second != meaning) {
      changes.push_back(absl::StrCat(name, " was '", meaning, "' and is '", found->second, "'"));
    }
  }
  return changes;
}

}  // namespace quantloom
