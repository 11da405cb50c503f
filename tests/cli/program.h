// Running the client as a user does: arguments, standard input, a pipe or a terminal, signals.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace quantloom::cli {

struct ProgramOptions {
  std::string input = "";        // all of standard input, unless it stays open
  bool keep_input_open = false;  // Write() adds to it
  bool terminal = false;         // all three streams are one terminal
  int columns = 100;             // of the terminal
  std::map<std::string, std::string> environment =
      {};                        // beside PATH, HOME and the sanitizers' options
  std::string output_file = "";  // instead of a pipe for standard output
  std::string program = "";      // another executable than the client that was built
};

// One run of the program. Output is collected while it runs.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments, ProgramOptions options = {});
  ~Program();  // ends it if it still runs
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Exit status, or 128 + signal. Standard output and error are complete afterwards.
  int Wait();

  // Waits until the text has been written; false when the program ended without it.
  bool AwaitOutput(const std::string& text);
  bool AwaitError(const std::string& text);

  void Interrupt();  // SIGINT
  void Write(const std::string& input);

  // What was written so far; on a terminal all of it is output.
  std::string output();
  std::string error();

 private:
  struct Capture {
    std::string text;
    bool ended = false;
  };
  void Collect(int descriptor, Capture& capture);
  bool Await(const Capture& capture, const std::string& text);

  int pid_ = -1;
  int input_ = -1;
  bool waited_ = false;
  int status_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  Capture output_;
  Capture error_;
  std::vector<std::thread> collectors_;
};

// The outcome of a run to its end.
struct Outcome {
  int status;
  std::string output;
  std::string error;
};
Outcome RunProgram(const std::vector<std::string>& arguments, ProgramOptions options = {});

}  // namespace quantloom::cli
