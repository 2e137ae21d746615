// The table of notes that the ranks of one node share.
#pragma once

#include "comm/watchdog.h"

namespace conclave {

// Collective over all ranks of the job. The memory has no name any more once this returns: nothing is left
// behind, however the job ends. Where a node has no shared memory to give, each of its ranks gets a table of
// its own, as if it were alone on its node.
NodeTable make_node_table();

}  // namespace conclave
