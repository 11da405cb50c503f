// The contract never breaks clients: everything in the committed baseline is still there.
//
// After an addition to proto/quantloom/v1, scripts/update_descriptor_baseline.sh records it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/file.h"
#include "tests/services/descriptor_compatibility.h"

namespace quantloom {
namespace {

using google::protobuf::FileDescriptorSet;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

FileDescriptorSet ReadDescriptors(const char* path) {
  FileDescriptorSet all;
  const auto bytes = ReadFile(path);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_TRUE(all.ParseFromString(bytes.value_or("")));
  FileDescriptorSet contract;
  for (const auto& file : all.file()) {
    if (file.package() == "quantloom.v1") *contract.add_file() = file;
  }
  EXPECT_EQ(contract.file_size(), 3);
  return contract;
}

TEST(DescriptorBaselineTest, Contract_BreaksNothingOfTheBaseline) {
  EXPECT_THAT(IncompatibleChanges(ReadDescriptors(QUANTLOOM_DESCRIPTOR_BASELINE),
                                  ReadDescriptors(QUANTLOOM_DESCRIPTORS)),
              IsEmpty());
}

TEST(DescriptorBaselineTest, Baseline_HoldsEveryAddition) {
  EXPECT_THAT(IncompatibleChanges(ReadDescriptors(QUANTLOOM_DESCRIPTORS),
                                  ReadDescriptors(QUANTLOOM_DESCRIPTOR_BASELINE)),
              IsEmpty())
      << "run scripts/update_descriptor_baseline.sh";
}

// The comparison itself: each kind of change to the baseline is found or allowed.
class DescriptorChangeTest : public ::testing::Test {
 protected:
  google::protobuf::DescriptorProto* Message(const std::string& name) {
    for (auto& file : *changed_.mutable_file()) {
      for (auto& message : *file.mutable_message_type()) {
        if (message.name() == name) return &message;
      }
    }
    return nullptr;
  }
  std::vector<std::string> Changes() { return IncompatibleChanges(baseline_, changed_); }

  const FileDescriptorSet baseline_ = ReadDescriptors(QUANTLOOM_DESCRIPTOR_BASELINE);
  FileDescriptorSet changed_ = baseline_;
};

TEST_F(DescriptorChangeTest, Additions_AreFine) {
  auto* field = Message("Job")->add_field();
  field->set_name("priority");
  field->set_number(99);
  changed_.mutable_file(0)->add_message_type()->set_name("Extra");
  changed_.mutable_file(0)->mutable_service(0)->add_method()->set_name("Extra");
  EXPECT_THAT(Changes(), IsEmpty());
}

TEST_F(DescriptorChangeTest, ARemovedFieldIsFound) {
  Message("Job")->mutable_field()->DeleteSubrange(0, 1);
  EXPECT_THAT(Changes(), ElementsAre(HasSubstr("quantloom.v1.Job field 1")));
}

TEST_F(DescriptorChangeTest, ARenumberedFieldIsFound) {
  Message("Job")->mutable_field(0)->set_number(99);
  EXPECT_THAT(Changes(), ElementsAre(HasSubstr("quantloom.v1.Job field 1")));
}

TEST_F(DescriptorChangeTest, ARenamedFieldIsFound) {
  Message("Job")->mutable_field(0)->set_name("title");
  EXPECT_THAT(Changes(), ElementsAre(HasSubstr("is 'title ")));
}

TEST_F(DescriptorChangeTest, ARetypedFieldIsFound) {
  Message("Job")->mutable_field(0)->set_type(google::protobuf::FieldDescriptorProto::TYPE_BYTES);
  EXPECT_THAT(Changes(), ElementsAre(HasSubstr("TYPE_BYTES")));
}

TEST_F(DescriptorChangeTest, ARepeatedFieldThatWasSingularIsFound) {
  Message("Job")->mutable_field(0)->set_label(
      google::protobuf::FieldDescriptorProto::LABEL_REPEATED);
  EXPECT_THAT(Changes(), ElementsAre(HasSubstr("LABEL_REPEATED")));
}

TEST_F(DescriptorChangeTest, ARemovedEnumValueMethodOrMessageIsFound) {
  for (auto& file : *changed_.mutable_file()) {
    if (file.enum_type_size() > 0 && file.enum_type(0).name() == "JobState") {
      file.mutable_enum_type(0)->mutable_value()->RemoveLast();
    }
    if (file.service(0).name() == "ModelService") {
      file.mutable_service(0)->mutable_method(0)->set_server_streaming(true);
      file.mutable_service(0)->mutable_method()->RemoveLast();
      file.mutable_message_type()->DeleteSubrange(0, 1);
    }
  }
  const std::vector<std::string> changes = Changes();
  EXPECT_THAT(changes, ::testing::Contains(HasSubstr("JobState value 5 (JOB_STATE_CANCELLED)")));
  EXPECT_THAT(changes, ::testing::Contains(HasSubstr("ModelService.GetServerInfo")));
  EXPECT_THAT(changes, ::testing::Contains(HasSubstr("-> stream ")));
  EXPECT_THAT(changes, ::testing::Contains(HasSubstr("quantloom.v1.Model (message)")));
}

}  // namespace
}  // namespace quantloom
