#include "cli/app.h"

int main(int argc, char** argv) { return quantloom::cli::Main(argc, argv); }
