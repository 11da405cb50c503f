// quantloom chat
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/generation_options.h"
#include "cli/session.h"
#include "cli/utf8.h"

namespace quantloom::cli {

using ::quantloom::v1::Chat;
using ::quantloom::v1::GenerateRequest;
using ::quantloom::v1::GenerateResponse;

namespace {

constexpr char kChatFooter[] =
    "One message a line. In the conversation:\n"
    "  /reset         forget the conversation (the system message stays)\n"
    "  /system TEXT   set the system message and forget the conversation; without TEXT: none\n"
    "  /help          show this list\n"
    "  /exit          leave; so does Ctrl-D\n"
    "Ctrl-C stops the answer, and what came of it stays in the conversation. From a pipe, each "
    "line is answered\n"
    "in turn and only the answers are written.\n\n"
    "Examples:\n"
    "  quantloom chat --model smollm2-2bit --system \"Answer briefly.\"\n"
    "  printf 'My name is Ada.\\nWhat is my name?\\n' | quantloom chat\n";

constexpr char kCommandHelp[] =
    "/reset   /system TEXT   /exit (or Ctrl-D)   Ctrl-C stops an answer\n";

struct ChatArguments {
  GenerateRequest request;
  std::string system;
  bool statistics = false;
};

// Lines of standard input, read so that an interrupt is noticed while waiting.
class LineReader {
 public:
  enum class Outcome { kLine, kEnd, kInterrupted };

  Outcome Next(std::string& line) {
    for (;;) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return Outcome::kLine;
      }
      if (ended_) {
        line.swap(buffer_);
        buffer_.clear();
        return line.empty() ? Outcome::kEnd : Outcome::kLine;
      }
      std::array<pollfd, 2> wanted = {
          {{STDIN_FILENO, POLLIN, 0}, {InterruptDescriptor(), POLLIN, 0}}};
      if (poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR) return Outcome::kEnd;
      if (TakeInterrupt()) {
        buffer_.clear();
        return Outcome::kInterrupted;
      }
      if (wanted[0].revents != 0) Fill();
    }
  }

 private:
  void Fill() {
    std::array<char, 4096> block;
    const ssize_t bytes = read(STDIN_FILENO, block.data(), block.size());
    if (bytes > 0) buffer_.append(block.data(), static_cast<size_t>(bytes));
    if (bytes == 0 || (bytes < 0 && errno != EINTR && errno != EAGAIN)) ended_ = true;
  }

  std::string buffer_;
  bool ended_ = false;
};

class Conversation {
 public:
  Conversation(Session& session, const ChatArguments& arguments)
      : session_(session),
        console_(session.console()),
        request_(arguments.request),
        statistics_(arguments.statistics),
        interactive_(isatty(STDIN_FILENO) == 1 && console_.out_is_terminal()) {
    SetSystem(arguments.system);
  }

  CommandResult Run() {
    CatchInterrupts();
    if (interactive_) console_.Err(kCommandHelp);
    for (std::string line;;) {
      if (interactive_) console_.Out(Styled(console_.out_color(), "1;36", "> "));
      switch (input_.Next(line)) {
        case LineReader::Outcome::kEnd:
          if (interactive_) console_.Out("\n");
          return ExitCode::kOk;
        case LineReader::Outcome::kInterrupted:
          if (!interactive_) return ExitCode::kInterrupted;
          console_.Out("\n");
          continue;
        case LineReader::Outcome::kLine:
          break;
      }
      const std::string text(absl::StripAsciiWhitespace(line));
      if (text.empty()) continue;
      if (text == "/exit" || text == "/quit") return ExitCode::kOk;
      if (text.front() == '/') {
        RunCommand(text);
        continue;
      }
      const absl::Status status = Answer(text);
      if (!status.ok() && !interactive_) return status;
      if (!status.ok()) {
        console_.Err(absl::StrCat(Styled(console_.err_color(), "1;31", "error:"), " ",
                                  FormatError(status), "\n"));
      }
      if (!interactive_ && session_.connection().cancellation().cancelled()) {
        return ExitCode::kInterrupted;
      }
    }
  }

 private:
  Chat& chat() { return *request_.mutable_chat(); }

  void AddMessage(const std::string& role, const std::string& content) {
    auto* message = chat().add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  void SetSystem(const std::string& text) {
    chat().clear_messages();
    if (!text.empty()) AddMessage("system", text);
  }

  void RunCommand(const std::string& text) {
    if (text == "/reset") {
      const bool has_system = chat().messages_size() > 0 && chat().messages(0).role() == "system";
      SetSystem(has_system ? std::string(chat().messages(0).content()) : "");
      session_.Note("The conversation is forgotten.");
    } else if (text == "/system" || absl::StartsWith(text, "/system ")) {
      const absl::string_view system = absl::StripPrefix(text, "/system");
      SetSystem(std::string(absl::StripAsciiWhitespace(system)));
      session_.Note("The system message is set and the conversation forgotten.");
    } else {
      console_.Err(text == "/help" ? kCommandHelp
                                   : absl::StrCat("unknown command ", text, "; ", kCommandHelp));
    }
  }

  // Asks for an answer and shows it. On an error the message is taken back, so that another can be
  // tried.
  absl::Status Answer(const std::string& text) {
    if (!IsUtf8(text)) return absl::InvalidArgumentError("the message is not UTF-8");
    Connection& connection = session_.connection();
    connection.cancellation().Reset();
    const InterruptScope interrupts([&] { connection.cancellation().Cancel(); });
    AddMessage("user", text);
    std::string answer;
    GenerateResponse last;
    GenerationTimes times;
    const absl::Status status = StreamGeneration(
        connection, request_,
        [&](const GenerateResponse& response) {
          last = response;
          answer += response.text();
          if (!session_.json()) {
            console_.Out(console_.out_is_terminal() ? TerminalSafe(response.text())
                                                    : response.text());
          }
        },
        times);
    if (!session_.json() && !answer.empty()) console_.Out("\n");
    if (!status.ok()) {
      chat().mutable_messages()->RemoveLast();
      return status;
    }
    AddMessage("assistant", answer);
    if (session_.json()) session_.OutJson(chat().messages(chat().messages_size() - 1));
    if (statistics_) session_.Note(FormatStatistics(last, times));
    return absl::OkStatus();
  }

  Session& session_;
  Console& console_;
  GenerateRequest request_;  // its chat is the conversation so far
  bool statistics_;
  bool interactive_;
  LineReader input_;
};

}  // namespace

void AddChatCommand(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* command = app.add_subcommand("chat", "Talk to a model");
  command->footer(kChatFooter);
  command->add_option("--system", arguments->system, "System message")->type_name("TEXT");
  command->add_flag("--stats", arguments->statistics, "Counts and speed after each answer");
  AddGenerationOptions(*command, arguments->request);
  command->callback([&session, arguments] {
    session.command = [&session, arguments] { return Conversation(session, *arguments).Run(); };
  });
}

}  // namespace quantloom::cli
