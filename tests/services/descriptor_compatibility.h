// What a change of the contract would break for clients that were built before it.
#pragma once

#include <google/protobuf/descriptor.pb.h>

#include <string>
#include <vector>

namespace quantloom {

// One sentence for each message, field, enum value, service or method of `before` that `after`
// lacks or has with another number, name, type, cardinality or oneof. Additions are fine.
std::vector<std::string> IncompatibleChanges(const google::protobuf::FileDescriptorSet& before,
                                             const google::protobuf::FileDescriptorSet& after);

}  // namespace quantloom
