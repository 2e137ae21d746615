// A few steps of training in which rank 1 goes astray: misbehaving_ranks SCENARIO TEXT_FILE. Errors end the
// job as in the product's main().
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "comm/mpi/mpi_communicator.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/evaluate.h"
#include "trainer/train_step.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr double kTimeoutSeconds = 2;

void evaluate_a_little(Trainer& trainer) {
  evaluate({.model = trainer.model,
            .dataset = trainer.dataset,
            .grid = trainer.grid,
            .arena = trainer.arena,
            .batch = trainer.batch,
            .micro_batch = 1,
            .max_sequences = 2});
}

void reduce(Communicator& world, std::int64_t elements) {
  std::vector<float> data(static_cast<std::size_t>(elements));
  world.all_reduce(buffer_view(std::span(data)));
}

// Both ranks send `elements` to each other.
void exchange(Communicator& world, std::int64_t elements) {
  const std::vector<float> send(static_cast<std::size_t>(2 * elements));
  std::vector<float> recv(send.size());
  world.all_to_all(buffer_view(std::span(send)), buffer_view(std::span(recv)));
}

// The fourth step, or what rank 1 does instead.
void fourth_step(const std::string& scenario, Trainer& trainer) {
  Communicator& world = trainer.world;
  const bool astray = world.rank() == 1;
  if (scenario == "another_order") {
    astray ? exchange(world, 10'000) : reduce(world, 20'000);
  } else if (scenario == "another_count") {
    exchange(world, astray ? 10'001 : 10'000);
  } else if (scenario == "broadcasts") {
    std::int64_t number = 1;
    if (astray) world.broadcast(buffer_view(std::span(&number, 1)), 0);
    reduce(world, 3);
  } else if (!astray) {
    train_step(trainer, 3);
  } else if (scenario == "evaluates") {
    evaluate_a_little(trainer);
  } else if (scenario == "another_step") {
    train_step(trainer, 4);
  } else if (scenario == "exits_with_0") {
    std::_Exit(0);
  } else {
    CONCLAVE_CHECK(scenario == "leaves_early", "unknown scenario {}", scenario);
  }
}

void run(const std::string& scenario, const std::string& text_path) {
  const MpiRuntime mpi;
  const std::unique_ptr<Communicator> world = make_mpi_world(mpi);
  world->watchdog().set_timeout(kTimeoutSeconds);
  config::Experiment experiment = test::tiny_experiment(text_path);
  experiment.mutable_moe()->set_balance_scope(config::Moe::sequence);  // nothing is reduced in the forward
  Trainer trainer(experiment, *world);
  for (std::int64_t step = 0; step < 3; ++step) train_step(trainer, step);
  fourth_step(scenario, trainer);
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    conclave::run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "conclave: rank %d: %s\n", conclave::MpiRuntime::launched_rank(), error.what());
    conclave::MpiRuntime::abort(1);
  }
}
