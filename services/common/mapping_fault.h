// Model files are read through memory mappings. A file that is truncated, or whose disk fails,
// while it is mapped raises SIGBUS at the next read: an end of the process that nothing can avert,
// but that names the file.
#pragma once

namespace quantloom {

// From now on SIGBUS writes the mapped file's name on stderr before it ends the process as it would
// have anyway. Call in main, before other threads.
void ReportMappingFaults();

}  // namespace quantloom
