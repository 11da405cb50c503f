// The product's version, e.g. "0.1.0".
#pragma once

namespace quantloom {

const char* Version();

}  // namespace quantloom
