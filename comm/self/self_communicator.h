// A group of one: the process alone. Every collective has its real meaning.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace conclave {

std::unique_ptr<Communicator> make_self_communicator(std::string name = "world");

}  // namespace conclave
