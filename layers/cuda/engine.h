// What operators need of a GPU: the stream they enqueue their work in, the way of small tensors to it, matrix
// products, and a record of what still runs on the host.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "comm/cuda/stream.h"
#include "layers/cuda/staging.h"

namespace conclave::cuda {

class Blas;

class Engine {
 public:
  // Throws Error if GPU `index` can't be used.
  explicit Engine(int index);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Stream& stream() const { return stream_; }
  Stream& stream() { return stream_; }
  Device device() const { return stream_.device(); }
  Blas& blas() { return *blas_; }
  Staging& staging() { return staging_; }

  // Calls of operators that have no kernel and ran on the host, each after a synchronize, by name.
  const std::map<std::string, std::int64_t>& calls_on_host() const { return calls_on_host_; }
  void count_on_host(const std::string& name) { ++calls_on_host_[name]; }

 private:
  Stream stream_;
  Staging staging_;
  std::unique_ptr<Blas> blas_;
  std::map<std::string, std::int64_t> calls_on_host_;
};

}  // namespace conclave::cuda
