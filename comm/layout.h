// How many ranks there are, and how many of them share one copy of the experts.
#pragma once

namespace conclave {

struct Layout {
  int ranks = 1;
  int expert_parallel_size = 1;  // divides ranks
};

}  // namespace conclave
