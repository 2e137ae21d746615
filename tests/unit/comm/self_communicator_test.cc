#include "comm/self/self_communicator.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <vector>

#include "comm/base/error.h"

namespace conclave {
namespace {

TEST(SelfCommunicator, IsAGroupOfOne) {
  const auto self = make_self_communicator();
  EXPECT_EQ(self->rank(), 0);
  EXPECT_EQ(self->size(), 1);
  EXPECT_EQ(self->name(), "world");
  const auto part = self->split(7, -3, "part");
  EXPECT_EQ(part->size(), 1);
  EXPECT_EQ(part->name(), "part");
}

TEST(SelfCommunicator, CollectivesHaveTheirMeaning) {
  const auto self = make_self_communicator();
  const std::vector<float> send = {1.0F, 2.0F, 3.0F};
  const auto received_by = [&](auto operation) {
    std::vector<float> recv(3, -1.0F);
    Work work = operation(buffer_view(std::span(send)), buffer_view(std::span(recv)));
    work.wait();
    work.wait();  // waiting again is harmless
    return recv;
  };
  EXPECT_EQ(received_by([&](auto from, auto to) { return self->all_to_all(from, to); }), send);
  const std::vector<std::int64_t> counts = {3};
  EXPECT_EQ(received_by([&](auto from, auto to) { return self->all_to_all_v(from, counts, to, counts); }),
            send);
  EXPECT_EQ(received_by([&](auto from, auto to) { return self->reduce_scatter(from, to); }), send);
  EXPECT_EQ(received_by([&](auto from, auto to) { return self->all_gather(from, to); }), send);

  std::vector<float> data = send;
  self->all_reduce(buffer_view(std::span(data)));
  self->broadcast(buffer_view(std::span(data)), 0);
  self->all_gather(buffer_view(std::span(data)), buffer_view(std::span(data)));  // in place
  self->barrier();
  EXPECT_EQ(data, send);
}

TEST(SelfCommunicator, NothingMayBeNull) {
  const auto self = make_self_communicator();
  const std::vector<std::int64_t> counts = {0};
  self->all_to_all_v({}, counts, {}, counts);
  self->all_to_all({}, {});
  self->all_reduce({});
  self->reduce_scatter({}, {});
  self->all_gather({}, {});
  self->broadcast({}, 0);
}

}  // namespace
}  // namespace conclave
