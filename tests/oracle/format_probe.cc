// Runs the formats for the Python oracles. Prints one JSON document on standard output; values are
// compared through the SHA-256 of their little-endian bytes.
//
//   format_probe safetensors FILE       {tensor: {dtype, shape, sha256}}, of a file
//   format_probe safetensors-dir DIR    the same, of a directory
//   format_probe safetensors-copy A B   reads A, writes B
//   format_probe gguf FILE KINDS        KINDS is {key: "string" | "unsigned" | "number" | "bool" |
//                                       "strings" | "integers" | "numbers"}; prints
//                                       {metadata: {key: value}, tensors: {name: {type, shape,
//                                       floats}}} with floats the digest of the F32 values
//   format_probe source PATH            {config: config.json, digest, tensors: {name: floats}}
//   format_probe pack SOURCE DIR RECIPE EMBEDDING_RECIPE
//                                       a packed model of the source, norms as BF16
//   format_probe packed DIR             {tensor: floats} as decoded
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/gguf.h"
#include "core/format/packed_model.h"
#include "core/format/safetensors.h"
#include "core/format/safetensors_writer.h"
#include "core/format/source_model.h"

namespace quantloom {
namespace {

using nlohmann::json;

std::string FloatDigest(absl::Span<const float> values) {
  return Sha256::Of({reinterpret_cast<const uint8_t*>(values.data()), 4 * values.size()});
}

json Describe(const SafetensorsTensor& tensor) {
  return {{"dtype", std::string(DTypeName(tensor.dtype))},
          {"shape", tensor.shape},
          {"sha256", Sha256::Of(tensor.bytes)}};
}

absl::StatusOr<json> DescribeSafetensors(const std::string& path) {
  QL_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  json result = json::object();
  for (const SafetensorsTensor& tensor : file.tensors()) result[tensor.name] = Describe(tensor);
  return result;
}

absl::StatusOr<json> DescribeSafetensorsDirectory(const std::string& path) {
  QL_ASSIGN_OR_RETURN(const SafetensorsDirectory directory, SafetensorsDirectory::Open(path));
  json result = json::object();
  for (const std::string& name : directory.names()) result[name] = Describe(*directory.Find(name));
  return result;
}

absl::StatusOr<json> CopySafetensors(const std::string& from, const std::string& to) {
  QL_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(from));
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  QL_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(to, specs, file.metadata()));
  for (const SafetensorsTensor& tensor : file.tensors()) {
    QL_RETURN_IF_ERROR(writer->Append(tensor.bytes));
  }
  QL_RETURN_IF_ERROR(writer->Close());
  return json::object();
}

template <typename T>
absl::StatusOr<json> AsJson(const absl::StatusOr<T>& value) {
  if (!value.ok()) return value.status();
  return json(*value);
}

std::string Text(absl::string_view view) { return {view.data(), view.size()}; }

absl::StatusOr<json> GgufValue(const GgufFile& file, const std::string& key,
                               const std::string& kind) {
  if (kind == "unsigned") return AsJson(file.Unsigned(key));
  if (kind == "number") return AsJson(file.Number(key));
  if (kind == "bool") return AsJson(file.Bool(key));
  if (kind == "integers") return AsJson(file.Integers(key));
  if (kind == "numbers") return AsJson(file.Numbers(key));
  if (kind == "string") {
    QL_ASSIGN_OR_RETURN(const absl::string_view value, file.String(key));
    return json(Text(value));
  }
  QL_ASSIGN_OR_RETURN(const std::vector<absl::string_view> values, file.Strings(key));
  json list = json::array();
  for (absl::string_view value : values) list.push_back(Text(value));
  return list;
}

absl::StatusOr<json> DescribeGguf(const std::string& path, const std::string& kinds) {
  QL_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  QL_ASSIGN_OR_RETURN(const json wanted, ParseJsonObject(kinds));
  json result = {{"metadata", json::object()}, {"tensors", json::object()}};
  for (const auto& [key, kind] : wanted.items()) {
    QL_ASSIGN_OR_RETURN(result["metadata"][key], GgufValue(file, key, kind.get<std::string>()));
  }
  for (const GgufTensor& tensor : file.tensors()) {
    QL_ASSIGN_OR_RETURN(const std::vector<float> values, file.ReadFloats(tensor.name));
    result["tensors"][tensor.name] = {
        {"type", Text(tensor.type.name)}, {"shape", tensor.shape}, {"floats", FloatDigest(values)}};
  }
  return result;
}

absl::StatusOr<json> DescribeSource(const std::string& path) {
  QL_ASSIGN_OR_RETURN(const auto model, SourceModel::Open(path));
  QL_ASSIGN_OR_RETURN(const json config, ParseJson(model->config().ToHfJson("")));
  QL_ASSIGN_OR_RETURN(const std::string digest, model->Digest());
  json result = {{"config", config}, {"digest", digest}, {"tensors", json::object()}};
  for (const TensorSpec& spec : ModelTensors(model->config())) {
    QL_ASSIGN_OR_RETURN(const std::vector<float> values, model->ReadFloats(spec.name));
    result["tensors"][spec.name] = FloatDigest(values);
  }
  return result;
}

absl::Status PackTensor(const SourceModel& source, const TensorSpec& spec,
                        const std::string& recipe, ThreadTeam& team, PackedModelWriter& writer) {
  QL_ASSIGN_OR_RETURN(const std::vector<float> values, source.ReadFloats(spec.name));
  if (spec.shape.size() != 2) {
    return writer.AddRaw(spec.name, spec.shape, DType::kBF16, values);
  }
  QL_ASSIGN_OR_RETURN(const auto codec, CreateCodec(recipe));
  QL_ASSIGN_OR_RETURN(
      const EncodedMatrix encoded,
      codec->Encode({.weights = values, .rows = spec.shape[0], .cols = spec.shape[1]}, team));
  return writer.AddEncoded(spec.name, spec.shape[0], spec.shape[1], encoded, "");
}

absl::StatusOr<json> Pack(const std::string& from, const std::string& to, const std::string& recipe,
                          const std::string& embedding_recipe) {
  QL_ASSIGN_OR_RETURN(const auto source, SourceModel::Open(from));
  QL_ASSIGN_OR_RETURN(const auto writer, PackedModelWriter::Open(to, {}));
  ThreadTeam team(1);
  for (const TensorSpec& spec : ModelTensors(source->config())) {
    const bool linear = spec.role == TensorSpec::Role::kLinear;
    QL_RETURN_IF_ERROR(
        PackTensor(*source, spec, linear ? recipe : embedding_recipe, team, *writer));
  }
  PackedManifest manifest;
  manifest.recipe = recipe;
  QL_ASSIGN_OR_RETURN(manifest.source_sha256, source->Digest());
  QL_RETURN_IF_ERROR(
      writer->Finish(source->config(), source->tokenizer_files(), manifest).status());
  return json::object();
}

absl::StatusOr<json> DescribePacked(const std::string& path) {
  QL_ASSIGN_OR_RETURN(const auto model, PackedModel::Open(path, Verify::kFull));
  json result = json::object();
  for (const PackedTensorInfo& info : model->manifest().tensors) {
    std::vector<float> values;
    if (info.recipe == kRawRecipe) {
      QL_ASSIGN_OR_RETURN(const PlaneView raw, model->OpenRaw(info.name));
      QL_ASSIGN_OR_RETURN(values, FloatsFromBytes(raw.dtype, raw.bytes));
    } else {
      QL_ASSIGN_OR_RETURN(const auto matrix, model->OpenMatrix(info.name));
      values.resize(matrix->rows() * matrix->cols());
      matrix->DecodeTile(0, matrix->rows(), 0, matrix->cols(), values.data(), matrix->cols());
    }
    result[info.name] = FloatDigest(values);
  }
  return result;
}

absl::StatusOr<json> Run(const std::vector<std::string>& args) {
  const std::string command = args.empty() ? "" : args[0];
  if (command == "safetensors" && args.size() == 2) return DescribeSafetensors(args[1]);
  if (command == "safetensors-dir" && args.size() == 2) {
    return DescribeSafetensorsDirectory(args[1]);
  }
  if (command == "safetensors-copy" && args.size() == 3) return CopySafetensors(args[1], args[2]);
  if (command == "gguf" && args.size() == 3) return DescribeGguf(args[1], args[2]);
  if (command == "source" && args.size() == 2) return DescribeSource(args[1]);
  if (command == "pack" && args.size() == 5) return Pack(args[1], args[2], args[3], args[4]);
  if (command == "packed" && args.size() == 2) return DescribePacked(args[1]);
  return absl::InvalidArgumentError("unknown command; see the head of format_probe.cc");
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  const auto result = quantloom::Run({argv + 1, argv + argc});
  if (!result.ok()) {
    std::cerr << result.status() << "\n";
    return 1;
  }
  std::cout << quantloom::DumpJson(*result) << "\n";
  return 0;
}
