// Failures that one rank may meet alone, told to all: nobody is left waiting in a collective.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "comm/base/error.h"
#include "comm/communicator.h"

namespace conclave {

// An Error that every rank throws with the same message: it is reported once, and no rank has to be killed.
class SharedError : public Error {
 public:
  using Error::Error;
};

// Collective. Pass this rank's failure, or nothing. If any rank failed, every rank throws SharedError with
// the message and the exit code of the lowest rank that did.
void throw_if_any_failed(Communicator& world, const std::optional<Error>& failure);

// Collective. Runs `action` (which must not communicate) on every rank and returns its result,
// or throws as above.
template <class Action>
auto on_all_ranks(Communicator& world, Action&& action) {
  std::optional<decltype(action())> result;
  std::optional<Error> failure;
  try {
    result.emplace(action());
  } catch (const Error& error) {
    failure = error;
  }
  throw_if_any_failed(world, failure);
  return std::move(*result);
}

}  // namespace conclave
