// Mistakes that every Communicator refuses before it sends anything, and what it says about them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "comm/communicator.h"

namespace conclave {
namespace {

using testing::HasSubstr;

// Rank 1 of 3, with a backend that only counts: what is refused must not get there.
class CountingCommunicator final : public Communicator {
 public:
  CountingCommunicator() : Communicator(1, 3, "experts", std::make_shared<Watchdog>()) {}
  int started = 0;

 protected:
  Work do_all_to_all_v(ConstBufferView, Blocks, BufferView, Blocks) override { return start(); }
  Work do_all_reduce(BufferView, ReduceOp) override { return start(); }
  Work do_reduce_scatter(ConstBufferView, BufferView, ReduceOp) override { return start(); }
  Work do_all_gather(ConstBufferView, BufferView) override { return start(); }
  Work do_broadcast(BufferView, int) override { return start(); }
  Work do_barrier() override { return start(); }
  std::unique_ptr<Communicator> do_split(int, int, std::string) override {
    ++started;
    return nullptr;
  }

 private:
  Work start() {
    ++started;
    return {};
  }
};

class ArgumentCheck : public testing::Test {
 protected:
  // The message with which `operation` was refused; "" if it was not.
  template <class Operation>
  static std::string refusal(Operation operation) {
    try {
      operation();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  BufferView floats(std::int64_t count, std::int64_t offset = 0) {
    return {memory_.data() + offset, count, DType::kFloat32, {}};
  }

  CountingCommunicator comm;

 private:
  std::vector<float> memory_ = std::vector<float>(100);
};

TEST_F(ArgumentCheck, GoodCallsReachTheBackend) {
  const std::vector<std::int64_t> send_counts = {1, 2, 3};
  const std::vector<std::int64_t> recv_counts = {4, 2, 0};
  comm.all_to_all(floats(6), floats(6, 10));
  comm.all_to_all_v(floats(6), send_counts, floats(6, 10), recv_counts);
  comm.all_reduce(floats(5));
  comm.reduce_scatter(floats(6), floats(2, 10));
  comm.all_gather(floats(2), floats(6, 10));
  comm.all_gather(floats(2, 12), floats(6, 10));  // block 1 of recv: in place
  comm.broadcast(floats(5), 2);
  comm.barrier();
  comm.split(0, -1, "part");
  EXPECT_EQ(comm.started, 9);
}

TEST_F(ArgumentCheck, Null) {
  const BufferView null{nullptr, 6, DType::kFloat32, {}};
  EXPECT_THAT(refusal([&] { comm.all_reduce(null); }),
              testing::AllOf(HasSubstr("all_reduce"), HasSubstr("\"experts\""), HasSubstr("data is null")));
  EXPECT_THAT(refusal([&] { comm.all_to_all(null, floats(6)); }), HasSubstr("send is null"));
  EXPECT_THAT(refusal([&] { comm.all_gather(floats(2), null); }), HasSubstr("recv is null"));
  EXPECT_THAT(refusal([&] { comm.broadcast(null, 0); }), HasSubstr("data is null"));
  EXPECT_EQ(comm.started, 0);
}

TEST_F(ArgumentCheck, Overlap) {
  EXPECT_THAT(refusal([&] { comm.all_to_all(floats(6), floats(6, 5)); }), HasSubstr("overlap"));
  EXPECT_THAT(refusal([&] { comm.reduce_scatter(floats(6), floats(2, 4)); }), HasSubstr("overlap"));
  // Block 0 of recv; this is rank 1.
  EXPECT_THAT(refusal([&] { comm.all_gather(floats(2, 10), floats(6, 10)); }), HasSubstr("not its block 1"));
  EXPECT_EQ(comm.started, 0);
}

TEST_F(ArgumentCheck, DTypeAndDevice) {
  BufferView integers = floats(6, 10);
  integers.dtype = DType::kInt32;
  EXPECT_THAT(refusal([&] { comm.all_to_all(floats(6), integers); }),
              testing::AllOf(HasSubstr("float32"), HasSubstr("int32")));
  BufferView elsewhere = floats(6);
  elsewhere.device = {DeviceKind::kCuda, 0};
  EXPECT_THAT(refusal([&] { comm.all_reduce(elsewhere); }),
              testing::AllOf(HasSubstr("cuda"), HasSubstr("cpu")));
  EXPECT_EQ(comm.started, 0);
}

TEST_F(ArgumentCheck, Counts) {
  EXPECT_THAT(refusal([&] { comm.all_to_all(floats(7), floats(7, 10)); }),
              testing::AllOf(HasSubstr("7"), HasSubstr("multiple of 3")));
  EXPECT_THAT(refusal([&] { comm.all_to_all(floats(6), floats(9, 10)); }), HasSubstr("recv 9"));
  EXPECT_THAT(refusal([&] { comm.reduce_scatter(floats(7), floats(2, 10)); }), HasSubstr("7"));
  EXPECT_THAT(refusal([&] { comm.all_gather(floats(2), floats(5, 10)); }), HasSubstr("5"));
  EXPECT_THAT(refusal([&] { comm.all_reduce(floats(-1)); }), HasSubstr("-1"));
  EXPECT_THAT(refusal([&] { comm.broadcast(floats(1), 3); }), HasSubstr("root 3 of 3"));
  EXPECT_THAT(refusal([&] { comm.split(-1, 0, "part"); }), HasSubstr("-1"));

  const auto exchange = [&](std::vector<std::int64_t> send_counts, std::vector<std::int64_t> recv_counts) {
    return refusal([&] { comm.all_to_all_v(floats(6), send_counts, floats(6, 10), recv_counts); });
  };
  EXPECT_THAT(exchange({6, 0}, {2, 2, 2}), HasSubstr("2 counts for send"));
  EXPECT_THAT(exchange({2, 2, 2}, {2, 2, 1}), HasSubstr("add up to 5"));
  EXPECT_THAT(exchange({2, 2, 2}, {7, 2, -3}), HasSubstr("-3"));
  EXPECT_THAT(exchange({2, 2, 2}, {3, 0, 3}), HasSubstr("rank 1 sends 2 elements to itself and expects 0"));

  // Blocks with gaps: of 6 elements.
  const std::vector<std::int64_t> counts = {1, 2, 1};
  const auto spread = [&](std::vector<std::int64_t> send_offsets, std::vector<std::int64_t> recv_offsets) {
    return refusal([&] {
      comm.all_to_all_v(floats(6), Blocks{counts, send_offsets}, floats(6, 10), Blocks{counts, recv_offsets});
    });
  };
  EXPECT_THAT(spread({0, 5, 2}, {0, 1, 3}), HasSubstr("send for rank 1 is [5, 7), and there are 6"));
  EXPECT_THAT(spread({0, 1, 3}, {-1, 1, 3}), HasSubstr("recv for rank 0 is [-1, 0)"));
  EXPECT_THAT(spread({0, 1}, {0, 1, 3}), HasSubstr("2 offsets"));
  EXPECT_EQ(comm.started, 0);
}

// Counts its waits and can fail.
struct Operation final : PendingOperation {
  Operation(int& counter, bool failing) : waits(counter), fails(failing) {}
  void wait() override {
    ++waits;
    if (fails) throw Error("the peer is gone");
  }
  int& waits;
  bool fails;
};

TEST(Work, WaitsOnceAndInItsDestructor) {
  int waits = 0;
  {
    Work work(std::make_unique<Operation>(waits, false));
    work.wait();
    work.wait();
  }
  EXPECT_EQ(waits, 1);
  { Work unattended(std::make_unique<Operation>(waits, false)); }
  EXPECT_EQ(waits, 2);
  Work first(std::make_unique<Operation>(waits, false));
  first = Work(std::make_unique<Operation>(waits, false));  // waits for the one that it replaces
  EXPECT_EQ(waits, 3);
}

TEST(Work, ErrorsAreNotLost) {
  int waits = 0;
  EXPECT_THROW({ Work unattended(std::make_unique<Operation>(waits, true)); }, Error);
  EXPECT_EQ(waits, 1);
}

}  // namespace
}  // namespace conclave
