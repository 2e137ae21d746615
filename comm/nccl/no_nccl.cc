// The backend of a build without NCCL: the host moves the memory of GPUs.
#include "comm/base/error.h"
#include "comm/nccl/nccl_collectives.h"

namespace conclave {

bool nccl_is_built_in() { return false; }

std::string nccl_description() {
  return "this program was built without NCCL: install it (libnccl-dev) and build anew, or say where it is "
         "with "
         "-DNCCL_ROOT=FOLDER";
}

std::shared_ptr<NcclQueue> make_nccl_queue(cuda::Stream&) { return nullptr; }

std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator&, std::shared_ptr<NcclQueue>) {
  throw Error(nccl_description());
}

}  // namespace conclave
