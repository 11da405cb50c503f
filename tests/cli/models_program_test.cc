// models, model load, model unload, batch, inspect, info
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Model TinyModel() {
  v1::Model model;
  model.set_name("tiny-2bit");
  model.set_state(v1::MODEL_STATE_LOADED);
  model.set_architecture("LlamaForCausalLM");
  model.set_parameters(134'515'008);
  model.set_context_length(2048);
  model.set_vocab_size(49'152);
  model.set_recipe("icquant:bits=2");
  model.set_linear_bits_per_weight(2.3412);
  model.set_bits_per_weight(3.912);
  model.set_packed_bytes(65'778'000);
  model.set_chat(true);
  return model;
}

void AddTensor(v1::Model& model, const std::string& name, std::vector<uint64_t> shape,
               const std::string& recipe, std::vector<double> bits, double error) {
  v1::Tensor& tensor = *model.add_tensors();
  tensor.set_name(name);
  for (const uint64_t extent : shape) tensor.add_shape(extent);
  tensor.set_recipe(recipe);
  tensor.set_bits_per_weight(bits[0]);
  tensor.set_code_bits(bits[1]);
  tensor.set_index_bits(bits[2]);
  tensor.set_checkpoint_bits(bits[3]);
  tensor.set_codebook_bits(bits[4]);
  tensor.set_padding_bits(bits[5]);
  tensor.set_relative_error(error);
}

TEST(ModelsProgramTest, Models_AreATable) {
  const ScriptedServer server(
      {.list_models = [](auto&, const auto&, v1::ListModelsResponse* response) {
        *response->add_models() = TinyModel();
        v1::Model& replaced = *response->add_models();
        replaced = TinyModel();
        replaced.set_name("replaced");
        replaced.set_update_available(true);
        v1::Model& broken = *response->add_models();
        broken.set_name("broken");
        broken.set_problem("manifest.json: missing");
        return grpc::Status::OK;
      }});
  EXPECT_EQ(
      RunProgram({"models", "--server", server.address()}).output,
      "MODEL      STATE              WEIGHTS  LINEAR B/W  ALL B/W     SIZE  CONTEXT  CHAT  RECIPE\n"
      "tiny-2bit  loaded               135 M        2.34     3.91  65.8 MB     2048  yes   "
      "icquant:bits=2\n"
      "replaced   loaded (outdated)    135 M        2.34     3.91  65.8 MB     2048  yes   "
      "icquant:bits=2\n"
      "broken     unusable                                                                 "
      "manifest.json: missing\n");
}

TEST(ModelsProgramTest, Batch_ShowsEachEnginesRequests) {
  const ScriptedServer server(
      {.get_running_batch = [](auto&, const auto& request, v1::RunningBatch* batch) {
        v1::EngineState& engine = *batch->add_engines();
        engine.set_model(request.model());
        engine.set_running_requests(1);
        engine.set_waiting_requests(2);
        engine.set_steps(1200);
        engine.set_step_tokens(5);
        engine.set_preemptions(3);
        engine.set_kv_blocks_total(64);
        engine.set_kv_blocks_used(8);
        engine.set_kv_blocks_cached(7);
        engine.set_kv_block_tokens(16);
        v1::SequenceState& sequence = *engine.add_sequences();
        sequence.set_request_id("order-17");
        sequence.set_client("alice");
        sequence.set_priority(v1::PRIORITY_HIGH);
        sequence.set_phase(v1::SEQUENCE_PHASE_DECODE);
        sequence.set_paused(true);
        sequence.set_prompt_tokens(100);
        sequence.set_cached_tokens(48);
        sequence.set_generated_tokens(21);
        sequence.set_kv_blocks(8);
        sequence.mutable_age()->set_seconds(75);
        return grpc::Status::OK;
      }});
  EXPECT_EQ(
      RunProgram({"batch", "--model", "tiny", "--server", server.address()}).output,
      "tiny: 1 running, 2 waiting; KV blocks 8 used, 7 cached, of 64 of 16 tokens; step 1200, 5 "
      "tokens; 3 preempted\n"
      "REQUEST   CLIENT  PRIORITY  PHASE           PROMPT  CACHED  GENERATED  BLOCKS     AGE\n"
      "order-17  alice   high      decode, paused     100      48         21       8  1m 15s\n");
}

TEST(ModelsProgramTest, LoadAndUnload_PrintTheState) {
  const auto answer = [](v1::ModelState state) {
    return [state](auto&, const auto& request, v1::Model* model) {
      model->set_name(request.name());
      model->set_state(state);
      return grpc::Status::OK;
    };
  };
  const ScriptedServer server({.load_model = answer(v1::MODEL_STATE_LOADED),
                               .unload_model = answer(v1::MODEL_STATE_AVAILABLE)});
  EXPECT_EQ(RunProgram({"model", "load", "m", "--server", server.address()}).output, "m: loaded\n");
  EXPECT_EQ(RunProgram({"model", "unload", "m", "--server", server.address()}).output,
            "m: available\n");
}

TEST(InspectProgramTest, Tensors_AreATableWithTotals) {
  v1::GetModelRequest request;
  const ScriptedServer server({.get_model = [&](auto&, const auto& received, v1::Model* model) {
    request = received;
    *model = TinyModel();
    AddTensor(*model, "model.norm.weight", {200}, "raw", {32, 32, 0, 0, 0, 0}, 0);
    AddTensor(*model, "model.layers.0.q.weight", {20, 40}, "icquant:bits=2",
              {2.5, 2, 0.3125, 0.0625, 0.125, 0}, 0.01234);
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram({"inspect", "tiny-2bit", "--server", server.address()});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_TRUE(request.include_tensors());
  EXPECT_THAT(outcome.output, HasSubstr("bits/weight   2.341 linear layers, 3.912 all tensors\n"));
  EXPECT_THAT(
      outcome.output,
      HasSubstr("TENSOR                    SHAPE  RECIPE      B/W    CODES   INDEX  CHECKPOINTS  "
                "CODEBOOKS  PADDING    ERROR\n"
                "model.norm.weight           200     [1]  32.0000  32.0000       -            -  "
                "        -        -        -\n"
                "model.layers.0.q.weight   20x40     [2]   2.5000   2.0000  0.3125       0.0625  "
                "   0.1250        -  0.01234\n"
                "-----------------------  ------  ------  -------  -------  ------  -----------  "
                "---------  -------  -------\n"
                "1 quantized                 800           2.5000   2.0000  0.3125       0.0625  "
                "   0.1250        -\n"
                "2 in all                 1.00 k           8.4000   8.0000  0.2500       0.0500  "
                "   0.1000        -\n"
                "\n"
                "[1]  raw\n"
                "[2]  icquant:bits=2\n"));
}

TEST(InspectProgramTest, CalibrationDevices_AreNamedWithTheirTensors) {
  const auto inspect = [](const std::vector<std::string>& devices) {
    const ScriptedServer server({.get_model = [&](auto&, const auto&, v1::Model* model) {
      *model = TinyModel();
      for (const std::string& device : devices) {
        AddTensor(*model, "t", {20, 40}, "icquant:bits=2", {2.5, 2.5, 0, 0, 0, 0}, 0.01);
        model->mutable_tensors()->rbegin()->set_calibration_device(device);
      }
      return grpc::Status::OK;
    }});
    return RunProgram({"inspect", "m", "--server", server.address()}).output;
  };
  EXPECT_THAT(inspect({"", "NVIDIA H200", "NVIDIA H100", "NVIDIA H200"}),
              HasSubstr("\ncalibrated on  NVIDIA H100 (1 of 4 tensors), NVIDIA H200 (2 of 4 "
                        "tensors)\n"));
  EXPECT_THAT(inspect({"", ""}), Not(HasSubstr("calibrated on")));
}

TEST(InspectProgramTest, Json_IsTheMessage) {
  v1::Model sent = TinyModel();
  AddTensor(sent, "t", {2, 3}, "raw", {32, 32, 0, 0, 0, 0}, 0);
  const ScriptedServer server({.get_model = [&](auto&, const auto&, v1::Model* model) {
    *model = sent;
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram({"inspect", "m", "--json", "--server", server.address()});
  v1::Model parsed;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(outcome.output, &parsed).ok());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(parsed, sent));
  EXPECT_THAT(outcome.output, HasSubstr("\"padding_bits\":0"));  // zeros are written
}

TEST(InspectProgramTest, UnusableModel_SaysWhy) {
  const ScriptedServer server({.get_model = [&](auto&, const auto&, v1::Model* model) {
    model->set_name("m");
    model->set_problem("manifest.json: missing");
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram({"inspect", "m", "--server", server.address()});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, HasSubstr("manifest.json: missing"));
}

TEST(InfoProgramTest, Info_ShowsLimitsAndCodecs) {
  const ScriptedServer server({.get_server_info = [](auto&, const auto&, v1::ServerInfo* info) {
    info->set_version("0.1.0");
    info->set_device("cpu");
    info->set_simd_target("AVX2");
    info->set_kv_cache_tokens(65'536);
    auto* codec = info->add_codecs();
    codec->set_name("icquant");
    codec->set_summary("outlier coding");
    codec->add_options()->set_key("bits");
    codec->mutable_options(0)->set_description("1 .. 4 or 8");
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram({"info", "--server", server.address()});
  EXPECT_THAT(outcome.output, HasSubstr("SIMD target      AVX2\n"));
  EXPECT_THAT(outcome.output, HasSubstr("KV cache         65,536 tokens (per model)\n"));
  EXPECT_THAT(outcome.output, HasSubstr("\ncodec icquant: outlier coding\n  bits: 1 .. 4 or 8\n"));
}

}  // namespace
}  // namespace quantloom::cli
