// What tests ask of the emulated GPUs.
#pragma once

namespace emulation {

// From now on the host has so many GPUs; 0, as at the start, is a machine without. CONCLAVE_EMULATED_GPUS in the
// environment sets it for programs that ask for none themselves.
void set_gpus(int count);

// From now on the host may not touch a GPU's memory while work for any GPU is enqueued: whoever forgot to
// synchronize ends the program. More than a device asks for, where the work touches other memory: for programs
// without messages under way.
void guard_memory_while_working(bool guards);

}  // namespace emulation
