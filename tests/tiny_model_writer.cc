// Writes the tests' tiny model to the directory that is named: tiny_model_writer DIRECTORY
#include <cstdio>

#include "tests/tiny_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tiny_model_writer DIRECTORY\n");
    return 2;
  }
  quantloom::testing::WriteTinyModel(argv[1], /*seed=*/1);
  return 0;
}
