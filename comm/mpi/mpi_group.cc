#include "comm/mpi/mpi_group.h"

#include <utility>

#include "comm/base/error.h"

namespace conclave {
namespace {

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

int size_of_group(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

int world_rank_of_first(MPI_Comm comm) {
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Comm_group(comm, &group);
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  const int first = 0;
  int world_rank = 0;
  MPI_Group_translate_ranks(group, 1, &first, world, &world_rank);
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  return world_rank;
}

}  // namespace

MpiGroup::MpiGroup(MPI_Comm comm, std::string name, std::shared_ptr<Watchdog> watchdog,
                   std::shared_ptr<ChannelSet> all_channels)
    : comm_(comm),
      name_(std::move(name)),
      noted_name_(NotedText::words_of(name_)),
      rank_(rank_in(comm)),
      size_(size_of_group(comm)),
      first_rank_(world_rank_of_first(comm)),
      watchdog_(std::move(watchdog)),
      all_channels_(std::move(all_channels)) {}

CollectiveNote MpiGroup::note(const MpiOperation& operation) const {
  return {operation.operation, operation.sequence, operation.bytes, noted_name_, rank_, size_, first_rank_};
}

void MpiGroup::finish(Transfers& transfers, const MpiOperation& operation) const {
  std::string problem;
  const WatchedWait wait(*watchdog_, note(operation));
  const int code = transfers.wait(problem);
  check(code, operation, problem);
}

void MpiGroup::check(int code, const MpiOperation& operation, const std::string& problem) const {
  if (code == MPI_SUCCESS) return;
  std::string reason(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, reason.data(), &length);
  reason.resize(static_cast<std::size_t>(length));
  throw Error(fmt::format("{} number {} of {} bytes in group \"{}\" failed on rank {} of {}: {}{}{}",
                          name_of(operation.operation), operation.sequence, operation.bytes, name_, rank_,
                          size_, reason, problem.empty() ? "" : "; ", problem));
}

}  // namespace conclave
