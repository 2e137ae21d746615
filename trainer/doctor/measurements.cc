#include "trainer/doctor/measurements.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "layers/ops/gemm/gemm.h"

namespace conclave {
namespace {

// Median seconds of `repeats` runs after one that warms up.
double median_seconds(int repeats, const std::function<void()>& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::nth_element(seconds, seconds.begin() + repeats / 2);
  return seconds[static_cast<std::size_t>(repeats) / 2];
}

}  // namespace

double measure_gemm_gflops() {
  constexpr std::int64_t kExtent = 512;
  const Buffer a({kExtent, kExtent}, DType::kFloat32);
  const Buffer b({kExtent, kExtent}, DType::kFloat32);
  const Buffer c({kExtent, kExtent}, DType::kFloat32);
  Context ctx;
  const double seconds =
      median_seconds(50, [&] { gemm(ctx, {.a = a.view(), .b = b.view(), .c = c.view()}); });
  return 2.0 * kExtent * kExtent * kExtent / seconds / 1e9;
}

double measure_memory_gb_per_second() {
  constexpr std::size_t kBytes = std::size_t{128} << 20;
  std::vector<std::byte> from(kBytes, std::byte{1});
  std::vector<std::byte> to(kBytes);
  const double seconds = median_seconds(7, [&] { std::memcpy(to.data(), from.data(), kBytes); });
  return 2.0 * static_cast<double>(kBytes) / seconds / 1e9;
}

double measure_exchange_gb_per_second(Communicator& world, std::int64_t bytes_per_peer) {
  if (world.size() == 1) return 0.0;
  const auto bytes = static_cast<std::size_t>(bytes_per_peer * world.size());
  std::vector<std::uint8_t> send(bytes, 1);
  std::vector<std::uint8_t> recv(bytes);
  const double seconds = median_seconds(50, [&] {
    world.all_to_all(buffer_view(std::span<const std::uint8_t>(send)), buffer_view(std::span(recv)));
  });
  return static_cast<double>(bytes_per_peer * (world.size() - 1)) / seconds / 1e9;
}

}  // namespace conclave
