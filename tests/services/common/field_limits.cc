#include "tests/services/common/field_limits.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace quantloom::testing {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kMaxDepth = 4;
constexpr int kManyScalars = 100'000;
constexpr int kManyMessages = 10'000;
constexpr absl::Duration kPatience = absl::Seconds(60);

// One value for a field, as what sets or adds it.
struct Value {
  std::string name;
  std::function<void(Message&, const FieldDescriptor*, bool add)> put;
};

template <typename T, typename Set, typename Add>
Value Scalar(std::string name, T value, Set set, Add add) {
  return {std::move(name), [=](Message& message, const FieldDescriptor* field, bool adds) {
            const Reflection* reflection = message.GetReflection();
            adds ? (reflection->*add)(&message, field, value)
                 : (reflection->*set)(&message, field, value);
          }};
}

template <typename T, typename Set, typename Add>
std::vector<Value> Integers(Set set, Add add) {
  using Limits = std::numeric_limits<T>;
  std::set<T> values = {0, 1, static_cast<T>(-1), 2, 255, Limits::min(), Limits::max()};
  std::vector<Value> all;
  for (const T value : values) all.push_back(Scalar(absl::StrCat(value), value, set, add));
  return all;
}

template <typename T, typename Set, typename Add>
std::vector<Value> Floats(Set set, Add add) {
  using Limits = std::numeric_limits<T>;
  std::vector<Value> all;
  for (const T value :
       {T{0}, -T{0}, T{1}, T{-1}, T{0.5}, Limits::denorm_min(), Limits::epsilon(), Limits::max(),
        Limits::lowest(), Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()}) {
    all.push_back(Scalar(absl::StrCat(value), value, set, add));
  }
  return all;
}

std::vector<Value> Strings(size_t long_bytes) {
  std::vector<Value> all;
  const auto text = [&](std::string name, const std::string& value) {
    all.push_back(
        {std::move(name), [value](Message& message, const FieldDescriptor* field, bool adds) {
           const Reflection* reflection = message.GetReflection();
           adds ? reflection->AddString(&message, field, value)
                : reflection->SetString(&message, field, value);
         }});
  };
  text("empty", "");
  text("space", " ");
  text("NUL", std::string(1, '\0'));
  text("control", "\x01\x1b[31m\r\n");
  text("Unicode", "\u00e9\u4e2d\U0001F600\u202e");
  text("not UTF-8", "\xff\xfe");
  text("half a character", "\xe4\xb8");
  text("surrogate", "\xed\xa0\x80");
  text("overlong", "\xc0\xaf");
  text("parent", "../../../../etc/passwd");
  text("absolute", "/etc/passwd");
  text("format", "%s%n{}{{%");
  for (const size_t size :
       {size_t{128}, size_t{129}, size_t{256}, size_t{257}, long_bytes, long_bytes + 1}) {
    text(absl::StrCat(size, " bytes"), std::string(size, 'a'));
  }
  return all;
}

std::vector<Value> Enums(const FieldDescriptor* field) {
  std::set<int> numbers = {-1, 1000, std::numeric_limits<int>::min(),
                           std::numeric_limits<int>::max()};
  for (int i = 0; i < field->enum_type()->value_count(); ++i) {
    numbers.insert(field->enum_type()->value(i)->number());
  }
  std::vector<Value> all;
  for (const int number : numbers) {
    all.push_back(
        Scalar(absl::StrCat(number), number, &Reflection::SetEnumValue, &Reflection::AddEnumValue));
  }
  return all;
}

std::vector<Value> ScalarValues(const FieldDescriptor* field, size_t long_bytes) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Integers<int32_t>(&Reflection::SetInt32, &Reflection::AddInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return Integers<int64_t>(&Reflection::SetInt64, &Reflection::AddInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return Integers<uint32_t>(&Reflection::SetUInt32, &Reflection::AddUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return Integers<uint64_t>(&Reflection::SetUInt64, &Reflection::AddUInt64);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Floats<float>(&Reflection::SetFloat, &Reflection::AddFloat);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Floats<double>(&Reflection::SetDouble, &Reflection::AddDouble);
    case FieldDescriptor::CPPTYPE_BOOL:
      return {Scalar("false", false, &Reflection::SetBool, &Reflection::AddBool),
              Scalar("true", true, &Reflection::SetBool, &Reflection::AddBool)};
    case FieldDescriptor::CPPTYPE_ENUM:
      return Enums(field);
    case FieldDescriptor::CPPTYPE_STRING:
      return Strings(long_bytes);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return {};
}

// Walks a message and its sub-messages, and adds the whole request once for each change.
class Walk {
 public:
  Walk(const Message& base, size_t long_bytes) : base_(base), long_bytes_(long_bytes) {}

  std::vector<LimitCase> Run() {
    const std::unique_ptr<Message> request = Copy();
    Fields(*request, *request, "", 0);
    return std::move(cases_);
  }

 private:
  std::unique_ptr<Message> Copy() const {
    std::unique_ptr<Message> copy(base_.New());
    copy->CopyFrom(base_);
    return copy;
  }
  void Add(const Message& request, std::string name) {
    cases_.push_back({std::move(name), request.SerializePartialAsString()});
  }

  // Changes each field of `message`, a part of `request`, and undoes it.
  void Fields(Message& request, Message& message, const std::string& path, int depth) {
    const Descriptor* descriptor = message.GetDescriptor();
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const FieldDescriptor* field = descriptor->field(i);
      const std::string name = absl::StrCat(path, field->name());
      const std::unique_ptr<Message> before(message.New());
      before->CopyFrom(message);
      const auto undo = [&] { message.CopyFrom(*before); };

      message.GetReflection()->ClearField(&message, field);
      Add(request, absl::StrCat(name, " absent"));
      undo();
      if (field->is_repeated()) {
        Repeated(request, message, field, name, depth, undo);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        if (depth == kMaxDepth) continue;
        Message* part = message.GetReflection()->MutableMessage(&message, field);
        Add(request, absl::StrCat(name, " present"));
        Fields(request, *part, absl::StrCat(name, "."), depth + 1);
        undo();
      } else {
        for (const Value& value : ScalarValues(field, long_bytes_)) {
          value.put(message, field, /*add=*/false);
          Add(request, absl::StrCat(name, "=", value.name));
          undo();
        }
      }
    }
  }

  void Repeated(Message& request, Message& message, const FieldDescriptor* field,
                const std::string& name, int depth, const std::function<void()>& undo) {
    const Reflection* reflection = message.GetReflection();
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      for (const Value& value : ScalarValues(field, long_bytes_)) {
        value.put(message, field, /*add=*/true);
        Add(request, absl::StrCat(name, "+=", value.name));
        undo();
      }
      const Value some = ScalarValues(field, /*long_bytes=*/1).back();
      for (int i = 0; i < kManyScalars; ++i) some.put(message, field, /*add=*/true);
      Add(request, absl::StrCat(name, " x ", kManyScalars));
      undo();
      return;
    }
    if (depth < kMaxDepth) {
      Message* element = reflection->AddMessage(&message, field);
      Add(request, absl::StrCat(name, "+={}"));
      Fields(request, *element, absl::StrCat(name, "[]."), depth + 1);
      undo();
    }
    for (int i = 0; i < kManyMessages; ++i) {
      Message* element = reflection->AddMessage(&message, field);
      if (!field->is_map()) continue;
      const FieldDescriptor* key = element->GetDescriptor()->map_key();
      if (key->cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
        element->GetReflection()->SetInt32(element, key, i);
      }
    }
    Add(request, absl::StrCat(name, " x ", kManyMessages));
    undo();
  }

  const Message& base_;
  const size_t long_bytes_;
  std::vector<LimitCase> cases_;
};

// Wire format that is no message, or more than one should have to read.
std::vector<LimitCase> MalformedCases(const std::string& valid) {
  // Field 1000: start and end of a group, length-delimited.
  const std::string group = "\xc3\x3e";
  const std::string end_group = "\xc4\x3e";
  const std::string bytes = "\xc2\x3e";
  std::string deep;
  std::string balanced;
  for (int i = 0; i < 100'000; ++i) deep += group;
  for (int i = 0; i < 50; ++i) balanced = absl::StrCat(group, balanced, end_group);
  return {
      {"no bytes", ""},
      {"truncated", valid.substr(0, valid.size() / 2)},
      {"truncated tag", "\x80"},
      {"field 0", std::string("\0\0", 2)},
      {"wire type 7", "\x0f"},
      {"unended groups", deep},
      {"unknown groups", valid + balanced},
      {"length beyond the end", valid + bytes + "\xff\xff\xff\xff\x07"},
      {"negative length", valid + bytes + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
      {"11-byte varint", valid + "\xc0\x3e\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
      {"large unknown field", valid + bytes + "\x80\x80\x04" + std::string(1 << 16, 'x')},
      {"twice", valid + valid},
  };
}

// A proper answer to a request of any form.
bool IsProper(const CallEnd& end) {
  switch (end.status.error_code()) {
    case grpc::StatusCode::OK:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::ALREADY_EXISTS:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::FAILED_PRECONDITION:
      return true;
    case grpc::StatusCode::CANCELLED:
      return end.cancelled;
    default:
      return false;
  }
}

}  // namespace

std::vector<LimitCase> FieldLimitCases(const Message& base, size_t long_bytes) {
  std::vector<LimitCase> cases = Walk(base, long_bytes).Run();
  std::vector<LimitCase> malformed = MalformedCases(base.SerializeAsString());
  cases.insert(cases.end(), malformed.begin(), malformed.end());
  return cases;
}

CallEnd CallAnyMethod(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, int max_responses, absl::Duration timeout) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  grpc::CompletionQueue queue;
  const auto step = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return ok;
  };
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  CallEnd end;
  if (step()) {
    const grpc::Slice slice(request);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    step();
    grpc::ByteBuffer response;
    for (int responses = 0;; ++responses) {
      if (responses == max_responses) {
        end.cancelled = true;
        context.TryCancel();
      }
      call->Read(&response, nullptr);
      if (!step()) break;
    }
  }
  call->Finish(&end.status, nullptr);
  step();
  return end;
}

void ExpectProperStatuses(const std::shared_ptr<grpc::Channel>& channel, absl::string_view service,
                          const std::vector<const Message*>& bases, size_t long_bytes) {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  const auto* descriptor = pool->FindServiceByName(std::string(service));
  ASSERT_NE(descriptor, nullptr) << service;
  for (int i = 0; i < descriptor->method_count(); ++i) {
    const auto* method = descriptor->method(i);
    const Message* base =
        google::protobuf::MessageFactory::generated_factory()->GetPrototype(method->input_type());
    for (const Message* given : bases) {
      if (given->GetDescriptor() == method->input_type()) base = given;
    }
    const std::string path = absl::StrCat("/", std::string(service), "/", method->name());
    const std::vector<LimitCase> cases = FieldLimitCases(*base, long_bytes);
    EXPECT_GT(cases.size(), 10u);
    for (const LimitCase& one : cases) {
      const CallEnd end = CallAnyMethod(channel, path, one.bytes, /*max_responses=*/2, kPatience);
      EXPECT_TRUE(IsProper(end)) << path << ", " << one.name << ": " << end.status.error_code()
                                 << " " << end.status.error_message();
    }
  }
}

}  // namespace quantloom::testing
