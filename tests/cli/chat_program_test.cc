// chat
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Writer = grpc::ServerWriter<v1::GenerateResponse>;

// Answers the n-th message with "answer n"; keeps the conversations it was sent, as
// "role:content|...".
class Interlocutor {
 public:
  Script script() {
    return {.generate = [this](auto& context, const auto& request, Writer& writer) {
      std::vector<std::string> messages;
      for (const auto& message : request.chat().messages()) {
        messages.push_back(absl::StrCat(message.role(), ":", message.content()));
      }
      const std::lock_guard lock(mutex_);
      conversations_.push_back(absl::StrJoin(messages, "|"));
      const std::string last = request.chat().messages().rbegin()->content();
      v1::GenerateResponse response;
      if (last == "fail") return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "too long");
      response.set_text(absl::StrCat("answer ", conversations_.size()));
      writer.Write(response);
      if (last == "long") {
        AwaitCancellation(context);
        return grpc::Status::CANCELLED;
      }
      return grpc::Status::OK;
    }};
  }
  std::vector<std::string> conversations() {
    const std::lock_guard lock(mutex_);
    return conversations_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> conversations_;
};

TEST(ChatProgramTest, Pipe_AnswersLineByLineWithHistory) {
  Interlocutor interlocutor;
  const ScriptedServer server(interlocutor.script());
  const Outcome outcome =
      RunProgram({"chat", "--system", "Be brief.", "--server", server.address()},
                 {.input = "one\n\ntwo\n/reset\nthree\n/system New.\nfour\n/system\nfive"});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.output, "answer 1\nanswer 2\nanswer 3\nanswer 4\nanswer 5\n");
  EXPECT_THAT(interlocutor.conversations(),
              ElementsAre("system:Be brief.|user:one",
                          "system:Be brief.|user:one|assistant:answer 1|user:two",
                          "system:Be brief.|user:three", "system:New.|user:four", "user:five"));
}

TEST(ChatProgramTest, Exit_EndsIt) {
  Interlocutor interlocutor;
  const ScriptedServer server(interlocutor.script());
  const Outcome outcome =
      RunProgram({"chat", "--server", server.address()}, {.input = "one\n/exit\ntwo\n"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "answer 1\n");
}

TEST(ChatProgramTest, Pipe_EndsWithTheFirstError) {
  Interlocutor interlocutor;
  const ScriptedServer server(interlocutor.script());
  const Outcome outcome =
      RunProgram({"chat", "--server", server.address()}, {.input = "fail\ntwo\n"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.error, "error: INVALID_ARGUMENT: too long\n");
}

TEST(ChatProgramTest, Terminal_GoesOnAfterAnError) {
  Interlocutor interlocutor;
  const ScriptedServer server(interlocutor.script());
  Program program({"chat", "--server", server.address()}, {.terminal = true});
  program.Write("fail\n");
  ASSERT_TRUE(program.AwaitOutput("too long"));
  program.Write("one\n");
  ASSERT_TRUE(program.AwaitOutput("answer 2"));
  program.Write("/exit\n");
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(interlocutor.conversations(), ElementsAre("user:fail", "user:one"));
}

TEST(ChatProgramTest, Interrupt_StopsTheAnswerAndNotTheProgram) {
  Interlocutor interlocutor;
  const ScriptedServer server(interlocutor.script());
  Program program({"chat", "--server", server.address()}, {.terminal = true});
  program.Write("long\n");
  ASSERT_TRUE(program.AwaitOutput("answer 1"));
  program.Interrupt();
  ASSERT_TRUE(program.AwaitOutput("answer 1\n"));
  program.Write("next\n");
  ASSERT_TRUE(program.AwaitOutput("answer 2"));
  program.Interrupt();  // at the prompt: nothing but a new one
  program.Write("more\n");
  ASSERT_TRUE(program.AwaitOutput("answer 3"));
  program.Write("/exit\n");
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(interlocutor.conversations()[1], "user:long|assistant:answer 1|user:next");
}

TEST(ChatProgramTest, Pipe_IsInterruptedWithStatus130) {
  Interlocutor interlocutor;
  const ScriptedServer server(interlocutor.script());
  Program program({"chat", "--server", server.address()},
                  {.input = "long\n", .keep_input_open = true});
  ASSERT_TRUE(program.AwaitOutput("answer 1"));
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
}

}  // namespace
}  // namespace quantloom::cli
