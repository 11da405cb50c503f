// Builds GGUF files in memory, well-formed or deliberately not, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantloom {

class GgufBuilder {
 public:
  // Value types as numbered in the file.
  enum Type : uint32_t {
    kU8,
    kI8,
    kU16,
    kI16,
    kU32,
    kI32,
    kF32,
    kBool,
    kString,
    kArray,
    kU64,
    kI64,
    kF64
  };

  uint32_t version = 3;
  uint64_t alignment = 32;

  template <typename T>
  GgufBuilder& Key(absl::string_view key, Type type, T value) {
    BeginKey(key, type);
    Put(keys_, value);
    return *this;
  }
  GgufBuilder& U32(absl::string_view key, uint32_t value) { return Key(key, kU32, value); }
  GgufBuilder& F32(absl::string_view key, float value) { return Key(key, kF32, value); }
  GgufBuilder& String(absl::string_view key, absl::string_view value) {
    BeginKey(key, kString);
    PutString(keys_, value);
    return *this;
  }
  GgufBuilder& Strings(absl::string_view key, const std::vector<std::string>& values) {
    BeginArray(key, kString, values.size());
    for (const std::string& value : values) PutString(keys_, value);
    return *this;
  }
  template <typename T>
  GgufBuilder& Array(absl::string_view key, Type type, const std::vector<T>& values) {
    BeginArray(key, type, values.size());
    for (const T& value : values) Put(keys_, value);
    return *this;
  }

  // `shape` is row-major; `bytes` are appended at the next multiple of the alignment.
  GgufBuilder& Tensor(absl::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                      const std::string& bytes) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    PutString(tensors_, name);
    Put(tensors_, static_cast<uint32_t>(shape.size()));
    for (size_t d = shape.size(); d > 0; --d) Put(tensors_, shape[d - 1]);
    Put(tensors_, type);
    Put(tensors_, static_cast<uint64_t>(data_.size()));
    data_ += bytes;
    ++tensor_count_;
    return *this;
  }
  GgufBuilder& FloatTensor(absl::string_view name, const std::vector<uint64_t>& shape,
                           absl::Span<const float> values) {
    std::string bytes(values.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return Tensor(name, shape, 0, bytes);
  }

  std::string Build() const {
    std::string file = "GGUF";
    Put(file, version);
    Put(file, tensor_count_);
    Put(file, key_count_);
    file += keys_ + tensors_;
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data_;
  }

  template <typename T>
  static void Put(std::string& out, T value) {
    const size_t size = out.size();
    out.resize(size + sizeof(T));
    std::memcpy(out.data() + size, &value, sizeof(T));
  }
  static void PutString(std::string& out, absl::string_view text) {
    Put(out, static_cast<uint64_t>(text.size()));
    out.append(text.data(), text.size());
  }

 private:
  void BeginKey(absl::string_view key, Type type) {
    PutString(keys_, key);
    Put(keys_, static_cast<uint32_t>(type));
    ++key_count_;
  }
  void BeginArray(absl::string_view key, Type type, uint64_t count) {
    BeginKey(key, kArray);
    Put(keys_, static_cast<uint32_t>(type));
    Put(keys_, count);
  }

  uint64_t key_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::string keys_;
  std::string tensors_;
  std::string data_;
};

inline absl::Span<const uint8_t> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace quantloom
