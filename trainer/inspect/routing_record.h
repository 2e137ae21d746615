// Routing decisions of a training step on disk: <log.routing>/step_000100.safetensors, for any safetensors
// reader. T tokens of the whole global batch in its order, whatever the layout:
//
//   tokens              int32 [T]     input ids, -1 for padding; sequence i is tokens [i S, (i + 1) S)
//   sources             int32 [T / S] which of the sources in the metadata a sequence comes from
//   layers.N.experts    int32 [T, K]  of the MoE layer in block N: global expert ids in the order of choice,
//   before
//                                     anything is dropped; -1 where a place is empty
//   layers.N.weights    fp32  [T, K]  the weight of each choice
//   layers.N.entropy    fp32  [T]     entropy of the router's distribution in nats, where it has one
//
// Metadata (strings): "conclave_routing" the version of this format, "step" optimizer steps done with this
// one, "sequence_length" S, "tokenizer" ("bytes" or "pretokenized"), "tokenizer_file" where
// data.tokenizer_file says it, "source_names" a JSON list, and "layers.N.experts" the number of experts E of
// each layer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "trainer/inspect/routing_trace.h"

namespace conclave {

struct RoutingRecord {
  std::int64_t step = 0;
  std::int64_t sequence_length = 0;  // S, divides T
  RoutingTrace trace;
};

// <directory>/step_000100.safetensors.
std::filesystem::path routing_record_path(const std::filesystem::path& directory, std::int64_t step);

// The file is complete or absent. Throws Error if it can't be written.
void write_routing_record(const std::filesystem::path& path, const RoutingRecord& record);
// Throws Error that says what is wrong with a file that is no such record.
RoutingRecord read_routing_record(const std::filesystem::path& path);

// The records that `path` means, by step: itself, or those in the directory. Throws Error if there is none.
std::vector<std::filesystem::path> find_routing_records(const std::filesystem::path& path);

}  // namespace conclave
