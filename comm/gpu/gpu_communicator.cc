#include "comm/gpu/gpu_communicator.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/base/error.h"
#include "comm/cuda/runtime.h"
#include "comm/gpu/device_collectives.h"
#include "comm/nccl/nccl_collectives.h"

namespace conclave {
namespace {

// What a group hands on to those that are split from it.
struct GpuSite {
  cuda::Stream& compute;
  std::string gpu;                   // of this rank, unlike any other of the job
  std::shared_ptr<NcclQueue> queue;  // null in a build without NCCL
};

// Host names may repeat, and hosts have GPUs with equal PCI ids; a kernel that was started has an id of its
// own.
std::string identity_of(Device device) {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  return boot_id + "/" + cuda::gpus().at(static_cast<std::size_t>(device.index)).pci_bus_id;
}

bool all_have_their_own(Communicator& host, const std::string& gpu) {
  constexpr std::size_t kIdBytes = 64;
  CONCLAVE_CHECK(gpu.size() <= kIdBytes, "\"{}\" is too long for the name of a GPU", gpu);
  std::array<std::uint8_t, kIdBytes> own{};
  std::ranges::copy(gpu, own.begin());
  std::vector<std::uint8_t> all(kIdBytes * static_cast<std::size_t>(host.size()));
  host.all_gather(buffer_view(std::span<const std::uint8_t>(own)), buffer_view(std::span(all)));
  std::set<std::string> different;
  for (auto id = all.begin(); id != all.end(); id += kIdBytes) different.emplace(id, id + kIdBytes);
  return different.size() == static_cast<std::size_t>(host.size());
}

std::unique_ptr<DeviceCollectives> choose_collectives(Communicator& host, const GpuSite& site) {
  if (host.size() == 1) return make_local_collectives(site.compute);
  const bool each_has_its_own = all_have_their_own(host, site.gpu);
  if (!each_has_its_own) return make_staged_collectives(host, site.compute, "ranks share a GPU");
  if (site.queue == nullptr) return make_staged_collectives(host, site.compute, nccl_description());
  return make_nccl_collectives(host, site.queue);
}

// The blocks of an operation that outlive the call.
struct KeptBlocks {
  explicit KeptBlocks(Blocks blocks)
      : counts(blocks.counts.begin(), blocks.counts.end()),
        offsets(blocks.offsets.begin(), blocks.offsets.end()) {}
  operator Blocks() const { return {counts, offsets}; }

  std::vector<std::int64_t> counts;
  std::vector<std::int64_t> offsets;
};

// An operation that was started while the stream was recorded: every replay waits for its own.
class RepeatedWork final : public PendingOperation {
 public:
  RepeatedWork(const cuda::Stream& stream, std::shared_ptr<Work> work)
      : stream_(stream), work_(std::move(work)) {}
  void wait() override {
    stream_.outside_graphs([work = work_] { work->wait(); });
  }

 private:
  const cuda::Stream& stream_;
  std::shared_ptr<Work> work_;
};

class GpuCommunicator final : public Communicator {
 public:
  GpuCommunicator(std::unique_ptr<Communicator> host, GpuSite site)
      : Communicator(host->rank(), host->size(), host->name(), host->shared_watchdog(), DeviceKind::kCuda),
        host_(std::move(host)),
        site_(std::move(site)),
        on_gpu_(choose_collectives(*host_, site_)) {}

  std::string describe_paths() const override { return on_gpu_->describe(); }
  void progress() override {
    host_->progress();
    on_gpu_->progress();
  }

 protected:
  Work do_all_to_all_v(ConstBufferView send, Blocks send_blocks, BufferView recv,
                       Blocks recv_blocks) override {
    if (!lies_on_gpu(send)) return host().all_to_all_v(send, send_blocks, recv, recv_blocks);
    if (!is_recorded()) return on_gpu_->all_to_all_v(send, send_blocks, recv, recv_blocks);
    return repeated([this, send, from = KeptBlocks(send_blocks), recv, to = KeptBlocks(recv_blocks)] {
      return on_gpu_->all_to_all_v(send, from, recv, to);
    });
  }
  Work do_all_reduce(BufferView data, ReduceOp op) override {
    if (!lies_on_gpu(data)) return host().all_reduce(data, op);
    if (!is_recorded()) return on_gpu_->all_reduce(data, op);
    return repeated([this, data, op] { return on_gpu_->all_reduce(data, op); });
  }
  Work do_reduce_scatter(ConstBufferView send, BufferView recv, ReduceOp op) override {
    if (!lies_on_gpu(send)) return host().reduce_scatter(send, recv, op);
    if (!is_recorded()) return on_gpu_->reduce_scatter(send, recv, op);
    return repeated([this, send, recv, op] { return on_gpu_->reduce_scatter(send, recv, op); });
  }
  Work do_all_gather(ConstBufferView send, BufferView recv) override {
    if (!lies_on_gpu(send)) return host().all_gather(send, recv);
    if (!is_recorded()) return on_gpu_->all_gather(send, recv);
    return repeated([this, send, recv] { return on_gpu_->all_gather(send, recv); });
  }
  Work do_broadcast(BufferView data, int root) override {
    if (!lies_on_gpu(data)) return host().broadcast(data, root);
    if (!is_recorded()) return on_gpu_->broadcast(data, root);
    return repeated([this, data, root] { return on_gpu_->broadcast(data, root); });
  }
  Work do_barrier() override { return host().barrier(); }
  void do_set_paths(const PathOptions& options) override { host_->set_paths(options); }
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    return std::make_unique<GpuCommunicator>(host_->split(color, key, std::move(name)), site_);
  }

 private:
  static bool lies_on_gpu(ConstBufferView buffer) { return buffer.device.kind == DeviceKind::kCuda; }

  // Messages are no work of a graph (comm/cuda/recording.h); a group of one sends none.
  bool is_recorded() const { return size() > 1 && site_.compute.recording() != nullptr; }
  template <class Start>
  Work repeated(Start start) {
    auto work = std::make_shared<Work>();
    site_.compute.outside_graphs([work, start] { *work = start(); });
    return Work(std::make_unique<RepeatedWork>(site_.compute, std::move(work)));
  }
  // What it brings a replay would miss.
  Communicator& host() {
    CONCLAVE_CHECK(site_.compute.recording() == nullptr,
                   "group \"{}\" is to move memory of the host while the work of a GPU is recorded", name());
    return *host_;
  }

  std::unique_ptr<Communicator> host_;
  GpuSite site_;
  std::unique_ptr<DeviceCollectives> on_gpu_;
};

}  // namespace

std::unique_ptr<Communicator> make_gpu_communicator(std::unique_ptr<Communicator> host,
                                                    cuda::Stream& compute) {
  GpuSite site{.compute = compute,
               .gpu = identity_of(compute.device()),
               .queue = host->size() > 1 ? make_nccl_queue(compute) : nullptr};
  return std::make_unique<GpuCommunicator>(std::move(host), std::move(site));
}

}  // namespace conclave
