// A tiny packed model in a model root, for the tests of the server.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace quantloom::testing {

// Context length of the tiny models: long enough for streams that go on for seconds.
inline constexpr uint32_t kTinyContext = 4096;
inline constexpr int32_t kTinyVocab = 272;

// Quantizes the random model of `seed` (tests/tiny_model.h) into root/name. Linear layers
// have `recipe`.
void WritePackedModel(const std::filesystem::path& root, const std::string& name, uint64_t seed,
                      const std::string& recipe = "icquant:bits=4");

// Inverts one byte in the middle of the packed model's tensor `tensor`.
void CorruptTensor(const std::filesystem::path& directory, const std::string& tensor);

}  // namespace quantloom::testing
