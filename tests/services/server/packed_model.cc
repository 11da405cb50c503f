#include "tests/services/server/packed_model.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <vector>

#include "core/base/parallel.h"
#include "core/codec/codec.h"
#include "core/format/packed_model.h"
#include "core/format/safetensors.h"
#include "core/format/source_model.h"
#include "tests/tiny_model.h"

namespace quantloom::testing {
namespace {

constexpr char kTableRecipe[] = "icquant:bits=8,inner=rtn,outliers=0";

absl::Status AddTensor(const SourceModel& source, const TensorSpec& spec, const std::string& recipe,
                       PackedModelWriter& writer) {
  auto values = source.ReadFloats(spec.name);
  if (!values.ok()) return values.status();
  if (spec.shape.size() == 1) return writer.AddRaw(spec.name, spec.shape, DType::kF32, *values);
  auto codec = CreateCodec(spec.role == TensorSpec::Role::kLinear ? recipe : kTableRecipe);
  if (!codec.ok()) return codec.status();
  ThreadTeam team(1);
  auto encoded =
      (*codec)->Encode({.weights = *values, .rows = spec.shape[0], .cols = spec.shape[1]}, team);
  if (!encoded.ok()) return encoded.status();
  return writer.AddEncoded(spec.name, spec.shape[0], spec.shape[1], *encoded, "");
}

}  // namespace

void WritePackedModel(const std::filesystem::path& root, const std::string& name, uint64_t seed,
                      const std::string& recipe) {
  const TemporaryDirectory source_directory;
  ModelConfig config = TinyConfig();
  config.max_position = kTinyContext;
  WriteTinyModel(source_directory.path() / "source", seed, config);
  auto source = SourceModel::Open(source_directory.path() / "source");
  ASSERT_TRUE(source.ok()) << source.status();
  auto writer = PackedModelWriter::Open(root / name, PackedModelWriter::Options());
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const TensorSpec& spec : ModelTensors((*source)->config())) {
    const absl::Status added = AddTensor(**source, spec, recipe, **writer);
    ASSERT_TRUE(added.ok()) << spec.name << ": " << added;
  }
  PackedManifest manifest;
  manifest.recipe = recipe;
  manifest.source_sha256 = (*source)->Digest().value();
  const auto finished =
      (*writer)->Finish((*source)->config(), (*source)->tokenizer_files(), manifest);
  ASSERT_TRUE(finished.ok()) << finished.status();
}

void CorruptTensor(const std::filesystem::path& directory, const std::string& tensor) {
  const auto shards = SafetensorsDirectory::Open(directory);
  ASSERT_TRUE(shards.ok()) << shards.status();
  const SafetensorsTensor* plane = shards->Find(tensor);
  ASSERT_NE(plane, nullptr) << tensor;
  const MappedFile& mapped = *shards->FindShard(tensor)->file();
  const auto offset = plane->bytes.data() - mapped.bytes().data() +
                      static_cast<std::ptrdiff_t>(plane->bytes.size() / 2);
  const char inverted = static_cast<char>(~mapped.bytes()[offset]);
  std::fstream file(mapped.path(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(offset);
  file.put(inverted);
  ASSERT_TRUE(file.good());
}

}  // namespace quantloom::testing
