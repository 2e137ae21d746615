// ranks: 1 2
// After its first steps, training takes no memory from the system: everything is allocated once and used
// again. Counted are all uses of operator new by the trainer's thread, and the arena's blocks; what oneDNN
// takes for its products, and what MPI takes from malloc, is theirs.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <string>
#include <string_view>

#include "layers/ops/bf16_gemm/bf16_gemm.h"
#include "tests/support/mpi_environment.h"
#include "tests/support/tiny_experiment.h"
#include "trainer/train_step.h"

namespace {
thread_local bool is_counting = false;
thread_local std::int64_t allocations = 0;

bool is_in_onednn(void* code) {
  Dl_info info;
  return dladdr(code, &info) != 0 &&
         std::string_view(info.dli_fname).find("libdnnl") != std::string_view::npos;
}
}  // namespace

// Not inlined: the compiler would take malloc and delete for a mismatch.
__attribute__((noinline)) void* operator new(std::size_t bytes) {
  if (is_counting && !is_in_onednn(__builtin_return_address(0))) ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace conclave {
namespace {

class AllocationTest : public testing::TestWithParam<const char*> {};

// A variant of the tiny experiment, or of how it is computed.
void choose(config::Experiment& experiment, const std::string& name) {
  if (name == "bf16") {
    experiment.mutable_precision()->set_compute(config::Precision::bf16);
  } else if (name == "sharded_state") {
    experiment.mutable_optim()->set_zero(1);
  } else if (name == "chunks") {
    experiment.mutable_parallel()->set_exchange_chunks(2);
  } else if (name != "plain") {
    test::apply(experiment, name);
  }
}

TEST_P(AllocationTest, NoneAfterTheFirstSteps) {
  config::Experiment experiment = test::tiny_experiment(test::tiny_text_file());
  experiment.mutable_moe()->set_capacity_factor(0);
  if (std::string_view(GetParam()) == "bf16" && !has_bf16_products())
    GTEST_SKIP() << "this processor has no bf16 products";
  choose(experiment, GetParam());
  Trainer trainer(experiment, test::world());
  // Loads differ from step to step: the arena and the buffers of exchanges have to see some.
  std::int64_t step = 0;
  for (; step < 5; ++step) train_step(trainer, step);
  const std::int64_t blocks = trainer.arena.system_allocations();
  allocations = 0;
  is_counting = true;
  for (; step < 8; ++step) train_step(trainer, step);
  is_counting = false;
  EXPECT_EQ(allocations, 0);
  EXPECT_EQ(trainer.arena.system_allocations(), blocks);
}

INSTANTIATE_TEST_SUITE_P(Variants, AllocationTest,
                         testing::Values("plain", "bf16", "sharded_state", "chunks", "shared", "switch",
                                         "sigmoid", "gateless", "gshard", "noisy_top_k", "expert_choice"),
                         [](const auto& variant) { return std::string(variant.param); });

}  // namespace
}  // namespace conclave
