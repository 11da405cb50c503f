#include "services/common/version.h"

namespace quantloom {

const char* Version() { return QUANTLOOM_VERSION; }

}  // namespace quantloom
