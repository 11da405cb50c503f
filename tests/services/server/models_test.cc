// Listing, loading and unloading models through ModelService.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "absl/time/clock.h"
#include "tests/services/server/models_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kLinear[] = "model.layers.1.mlp.up_proj.weight";

TEST_F(ModelsTest, ListModels_ShowsPackedDirectoriesAlone) {
  WritePackedModel(root_.path(), "second", /*seed=*/2, "icquant:bits=2");
  std::filesystem::create_directory(root_.path() / "no-model");
  std::filesystem::rename(root_.path() / "second", root_.path() / ".staging-7");
  std::filesystem::copy(root_.path() / ".staging-7", root_.path() / "second");
  std::ofstream(root_.path() / "file") << "not a directory";
  std::filesystem::create_directory_symlink("/", root_.path() / "link");
  StartServer();
  const std::vector<v1::Model> models = List();
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].name(), "second");
  EXPECT_EQ(models[0].state(), v1::MODEL_STATE_AVAILABLE);
  EXPECT_FALSE(models[0].has_load_time());
  EXPECT_EQ(models[1].name(), "tiny");
  EXPECT_EQ(models[1].state(), v1::MODEL_STATE_LOADED);
  EXPECT_TRUE(models[1].has_load_time());
  EXPECT_EQ(models[1].architecture(), "LlamaForCausalLM");
  EXPECT_EQ(models[1].context_length(), kTinyContext);
  EXPECT_EQ(models[1].vocab_size(), 272u);
  EXPECT_TRUE(models[1].chat());
  EXPECT_GT(models[1].linear_bits_per_weight(), models[0].linear_bits_per_weight());
  EXPECT_GT(models[1].packed_bytes(), models[0].packed_bytes());
  EXPECT_EQ(models[1].tensors_size(), 0);
}

TEST_F(ModelsTest, GetModel_TellsWhereEachTensorsBitsGo) {
  StartServer();
  v1::Model model;
  ASSERT_TRUE(Get("tiny", /*tensors=*/true, &model).ok());
  uint64_t parameters = 0;
  for (const v1::Tensor& tensor : model.tensors()) {
    uint64_t weights = 1;
    for (const uint64_t size : tensor.shape()) weights *= size;
    parameters += weights;
    if (tensor.recipe() == "raw") continue;
    EXPECT_NEAR(tensor.bits_per_weight(),
                tensor.code_bits() + tensor.index_bits() + tensor.checkpoint_bits() +
                    tensor.codebook_bits() + tensor.padding_bits(),
                1e-9)
        << tensor.name();
  }
  EXPECT_EQ(model.parameters(), parameters);
  // 2 layers of 7 matrices and 2 norms, the final norm, the embedding.
  EXPECT_EQ(model.tensors_size(), 20);
  v1::Model bare;
  ASSERT_TRUE(Get("tiny", /*tensors=*/false, &bare).ok());
  EXPECT_EQ(bare.tensors_size(), 0);
}

TEST_F(ModelsTest, UnknownAndImproperNames_NameTheField) {
  StartServer();
  v1::Model model;
  for (const auto& [name, code] : std::vector<std::pair<std::string, absl::StatusCode>>{
           {"", absl::StatusCode::kInvalidArgument},
           {"..", absl::StatusCode::kInvalidArgument},
           {"../tiny", absl::StatusCode::kInvalidArgument},
           {"/etc", absl::StatusCode::kInvalidArgument},
           {std::string("tiny\0x", 6), absl::StatusCode::kInvalidArgument},
           {std::string(1000, 'a'), absl::StatusCode::kInvalidArgument},
           {"absent", absl::StatusCode::kNotFound}}) {
    for (const absl::Status& status :
         {Get(name, false, &model), Load(name, &model), Unload(name, &model)}) {
      EXPECT_EQ(status.code(), code) << name << ": " << status;
      EXPECT_EQ(ViolatedField(status), "name");
    }
  }
}

TEST_F(ModelsTest, LinkOutOfTheRoot_IsPermissionDenied) {
  const TemporaryDirectory elsewhere;
  WritePackedModel(elsewhere.path(), "model", /*seed=*/3);
  std::filesystem::create_directory_symlink(elsewhere.path() / "model", root_.path() / "link");
  StartServer();
  v1::Model model;
  EXPECT_EQ(Load("link", &model).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(List().size(), 1u);
}

TEST_F(ModelsTest, LoadAndUnload_ChangeWhatIsServed) {
  WritePackedModel(root_.path(), "second", /*seed=*/2);
  StartServer();
  v1::Model model;
  ASSERT_TRUE(Load("second", &model).ok());
  EXPECT_EQ(model.state(), v1::MODEL_STATE_LOADED);
  ASSERT_TRUE(Load("second", &model).ok()) << "loading again changes nothing";
  v1::GenerateRequest request = Request("the rain", 20);
  request.set_model("tiny");
  const std::string first = Generate(request).text;
  request.set_model("second");
  EXPECT_NE(Generate(request).text, first);
  ASSERT_TRUE(Unload("second", &model).ok());
  EXPECT_EQ(model.state(), v1::MODEL_STATE_AVAILABLE);
  EXPECT_EQ(Generate(request).status.code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Unload("second", &model).ok()) << "unloading again changes nothing";
  ASSERT_TRUE(Load("second", &model).ok());
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(ModelsTest, ConcurrentLoads_LoadOnce) {
  options_.load.clear();
  StartServer();
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([this] {
      v1::Model model;
      const absl::Status status = Load("tiny", &model);
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(model.state(), v1::MODEL_STATE_LOADED);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(server_->models().Loaded().size(), 1u);
}

TEST_F(ModelsTest, Unload_WaitsForRunningStreams) {
  StartServer();
  const std::string expected = Generate(Request("the rain", 1500)).text;
  grpc::ClientContext context;
  const auto stream = generation_->Generate(&context, Request("the rain", 1500));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::string text = response.text();
  v1::Model unloaded;
  auto unload = std::async(std::launch::async, [&] { return Unload("tiny", &unloaded); });
  while (List()[0].state() == v1::MODEL_STATE_LOADED) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(Generate(Request("another", 4)).status.code(), absl::StatusCode::kFailedPrecondition);
  while (stream->Read(&response)) text += response.text();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(text, expected);
  EXPECT_TRUE(unload.get().ok());
  EXPECT_EQ(unloaded.state(), v1::MODEL_STATE_AVAILABLE);
  EXPECT_TRUE(server_->models().Loaded().empty());
}

TEST_F(ModelsTest, UnloadThatNobodyWaitsFor_GoesOn) {
  StartServer();
  grpc::ClientContext context;
  const auto stream = generation_->Generate(&context, Request("the rain", 4000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  v1::UnloadModelRequest request;
  request.set_name("tiny");
  grpc::ClientContext impatient;
  impatient.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(20)));
  v1::Model model;
  const grpc::Status status = models_->UnloadModel(&impatient, request, &model);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  while (List()[0].state() != v1::MODEL_STATE_AVAILABLE) absl::SleepFor(absl::Milliseconds(5));
}

TEST_F(ModelsTest, CorruptModel_IsDataLossNamingTheTensor) {
  options_.verify = "full";
  WritePackedModel(root_.path(), "corrupt", /*seed=*/2);
  CorruptTensor(root_.path() / "corrupt", std::string(kLinear) + ".codes");
  StartServer();
  v1::Model model;
  const absl::Status status = Load("corrupt", &model);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("corrupt"), HasSubstr(kLinear)));
  EXPECT_TRUE(Generate(Request("still here", 5)).status.ok());
}

TEST_F(ModelsTest, TruncatedModel_IsDataLossAndListedWithItsProblem) {
  WritePackedModel(root_.path(), "truncated", /*seed=*/2);
  for (const auto& entry : std::filesystem::directory_iterator(root_.path() / "truncated")) {
    if (entry.path().extension() == ".safetensors") {
      std::filesystem::resize_file(entry.path(), entry.file_size() / 2);
    }
  }
  StartServer();
  v1::Model model;
  const absl::Status status = Load("truncated", &model);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_EQ(Get("truncated", false, &model).code(), absl::StatusCode::kDataLoss);
  const std::vector<v1::Model> models = List();
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[1].name(), "truncated");
  EXPECT_NE(models[1].problem(), "");
  EXPECT_EQ(models[0].problem(), "");
}

TEST_F(ModelsTest, ReplacedModel_IsReadAnew) {
  WritePackedModel(root_.path(), "second", /*seed=*/2, "icquant:bits=2");
  StartServer();
  const double before = List()[0].linear_bits_per_weight();
  std::filesystem::remove_all(root_.path() / "second");
  WritePackedModel(root_.path(), "second", /*seed=*/2, "icquant:bits=4");
  EXPECT_GT(List()[0].linear_bits_per_weight(), before);
  std::filesystem::remove_all(root_.path() / "second");
  EXPECT_EQ(List().size(), 1u);
}

TEST_F(ModelsTest, MemoryLimit_RefusesNamingWhatIsAskedAndLeft) {
  WritePackedModel(root_.path(), "second", /*seed=*/2);
  // Both have a KV cache of 16 x 2048 tokens x 2 layers x 2 x 2 heads x 16 values x 2 bytes.
  constexpr uint64_t kKvBytes = 16ull * 2048 * 2 * 2 * 2 * 16 * 2;
  options_.memory_limit = kKvBytes * 3 / 2;
  StartServer();
  v1::Model model;
  const absl::Status refused = Load("second", &model);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(std::to_string(options_.memory_limit)));
  ASSERT_TRUE(Unload("tiny", &model).ok());
  const absl::Status loaded = Load("second", &model);
  EXPECT_TRUE(loaded.ok()) << "memory is free again: " << loaded;
}

TEST_F(ModelsTest, GetServerInfo_TellsLimitsAndCodecs) {
  options_.engine.max_running = 5;
  options_.engine.kv_tokens = 4096;
  StartServer();
  grpc::ClientContext context;
  v1::ServerInfo info;
  ASSERT_TRUE(models_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.threads(), 2u);
  EXPECT_EQ(info.device(), "cpu");
  EXPECT_FALSE(info.simd_target().empty());
  EXPECT_EQ(info.max_running_requests(), 5u);
  EXPECT_EQ(info.kv_cache_tokens(), 4096u);
  ASSERT_GE(info.codecs_size(), 1);
  EXPECT_EQ(info.codecs(0).name(), "icquant");
  EXPECT_GT(info.codecs(0).options_size(), 3);
}

TEST_F(ModelsTest, StartUp_FailsWithoutANamedModelAndSkipsBadOnesOfLoadAll) {
  WritePackedModel(root_.path(), "bad", /*seed=*/2);
  std::filesystem::resize_file(root_.path() / "bad" / "config.json", 3);
  options_.load = {"absent"};
  auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->LoadModels([] { return false; }).code(), absl::StatusCode::kNotFound);
  server->reset();
  options_.load.clear();
  options_.load_all = true;
  StartServer();
  ASSERT_EQ(server_->models().Loaded().size(), 1u);
  EXPECT_EQ(server_->models().Loaded()[0]->name, "tiny");
}

TEST_F(ModelsTest, StartUp_RefusesToPinMoreThreadsThanProcessors) {
  options_.threads = static_cast<int>(std::thread::hardware_concurrency()) + 1;
  options_.pin_threads = true;
  const absl::Status status = Server::Start(options_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("pin-threads"));
}

TEST_F(ModelsTest, StartUp_EndsBetweenModelsWhenInterrupted) {
  WritePackedModel(root_.path(), "other", /*seed=*/2);
  options_.load = {"tiny", "other"};
  auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  ModelRegistry& models = (*server)->models();
  const absl::Status loaded = (*server)->LoadModels([&models] { return !models.Loaded().empty(); });
  EXPECT_EQ(loaded.code(), absl::StatusCode::kCancelled);
  for (const auto& model : models.Loaded()) EXPECT_EQ(model->name, "tiny");
  (*server)->Drain();
  server->reset();  // waits for what is being loaded
}

}  // namespace
}  // namespace quantloom::testing
