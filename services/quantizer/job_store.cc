#include "services/quantizer/job_store.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "core/base/sha256.h"

namespace quantloom {

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

std::string RequestFingerprint(const v1::QuantizeRequest& request) {
  v1::QuantizeRequest anonymous = request;
  anonymous.clear_request_id();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    anonymous.SerializeToCodedStream(&coded);
  }
  return Sha256::Of({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

v1::QuantizeRequest WithoutTexts(v1::QuantizeRequest request) {
  // The empty text stays, to tell that one was given.
  if (request.calibration().has_inline_text()) {
    request.mutable_calibration()->set_inline_text("");
  }
  if (request.evaluation().has_inline_text()) request.mutable_evaluation()->set_inline_text("");
  return request;
}

}  // namespace quantloom
