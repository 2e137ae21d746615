#include <gtest/gtest.h>

#include "comm/base/error.h"
#include "comm/cuda/memory.h"
#include "comm/cuda/runtime.h"
#include "comm/cuda/stream.h"

namespace conclave {
namespace {

TEST(Gpu, OneThatIsNotThereIsRefused) {
  const int beyond = static_cast<int>(cuda::gpus().size());
  EXPECT_THROW(cuda::select(beyond), Error);
  EXPECT_THROW(cuda::Stream{beyond}, Error);
  EXPECT_THROW(cuda::allocate({DeviceKind::kCuda, beyond}, 1), Error);
}

}  // namespace
}  // namespace conclave
