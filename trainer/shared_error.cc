#include "trainer/shared_error.h"

#include <cstdint>
#include <span>

#include "trainer/checkpoint/agreement.h"

namespace conclave {

void throw_if_any_failed(Communicator& world, const std::optional<Error>& failure) {
  std::int64_t first_failed = failure ? world.rank() : world.size();
  world.all_reduce(buffer_view(std::span(&first_failed, 1)), ReduceOp::kMin);
  if (first_failed == world.size()) return;

  const int root = static_cast<int>(first_failed);
  auto exit_code = static_cast<std::int64_t>(failure ? failure->exit_code() : ExitCode::kFailure);
  world.broadcast(buffer_view(std::span(&exit_code, 1)), root);
  const std::string message = broadcast_text(world, failure ? failure->what() : "", root);
  throw SharedError(message, static_cast<ExitCode>(exit_code));
}

}  // namespace conclave
