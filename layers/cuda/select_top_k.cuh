// layers/ops/select_top_k.h on a GPU, a warp a token, with the same choice: ties go to the lower id, and NaNs
// end the same. All lanes of the warp call these together and find the choice written.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>
#include "layers/cuda/elements.cuh"

namespace conclave::cuda {

__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }

// One of the candidates, or none.
struct Choice {
  float score = 0;
  std::int32_t id = -1;

  // Whether this one comes before `other` in a list. Never, if it is none.
  __device__ bool is_before(const Choice& other) const {
    if (id < 0 || other.id < 0) return id >= 0;
    return score > other.score || (score == other.score && id < other.id);
  }
};

// The first of the lanes' choices.
__device__ inline Choice first_of_warp(Choice choice) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Choice other{__shfl_xor_sync(kAllLanes, choice.score, distance),
                       __shfl_xor_sync(kAllLanes, choice.id, distance)};
    if (other.is_before(choice)) choice = other;
  }
  return choice;
}

// Ids id_of(0) < id_of(1) < ... of `count` candidates, offered one after the other as on the host. On one
// lane.
template <class IdOf>
__device__ void choose_in_turn(const float* scores, IdOf id_of, std::int64_t count, std::int64_t size,
                               std::int32_t* chosen) {
  std::int64_t length = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t id = id_of(i);
    if (length == size) {
      if (!(scores[id] > scores[chosen[length - 1]])) continue;
      --length;
    }
    std::int64_t place = length++;
    for (; place > 0 && scores[id] > scores[chosen[place - 1]]; --place) chosen[place] = chosen[place - 1];
    chosen[place] = id;
  }
}

// The `size` best of them, in descending order: each is the first that comes after the one before.
template <class IdOf>
__device__ void choose(const float* scores, IdOf id_of, std::int64_t count, std::int64_t size,
                       std::int32_t* chosen) {
  bool has_nan = false;
  for (std::int64_t i = lane_of_warp(); i < count; i += kWarp) {
    const float score = scores[id_of(i)];
    has_nan = has_nan || score != score;
  }
  if (__ballot_sync(kAllLanes, has_nan) != 0) {  // comparisons make no order, but the host's loop an outcome
    if (lane_of_warp() == 0) choose_in_turn(scores, id_of, count, size, chosen);
    __syncwarp();
    return;
  }
  Choice last;
  for (std::int64_t k = 0; k < size; ++k) {
    Choice best;
    for (std::int64_t i = lane_of_warp(); i < count; i += kWarp) {
      const std::int32_t id = id_of(i);
      const Choice candidate{scores[id], id};
      if ((last.id < 0 || last.is_before(candidate)) && candidate.is_before(best)) best = candidate;
    }
    last = first_of_warp(best);
    if (lane_of_warp() == 0) chosen[k] = last.id;
  }
  __syncwarp();
}

// Groups of experts, and this token's scratch: scores [groups], best [top_groups]. Without a limit the
// scratch is unused.
struct TokenGroups {
  std::int64_t groups;
  std::int64_t top_groups;
  float* scores;
  std::int32_t* best;
};

// Of token t, from the arguments of an operator, whose scratch is null where nothing is limited.
template <class Args>
__device__ TokenGroups groups_of_token(const Args& args, std::int64_t t) {
  if (args.group_scores == nullptr) return {args.groups, args.top_groups, nullptr, nullptr};
  return {args.groups, args.top_groups, args.group_scores + t * args.groups,
          args.best_groups + t * args.top_groups};
}

// scores [E] -> chosen [K] in descending order. add(a, b) is a group's score for its two best, a >= b > -inf.
template <class Add>
__device__ void select_top_k(const float* scores, std::int64_t experts, std::int64_t top_k,
                             const TokenGroups& limit, Add add, std::int32_t* chosen) {
  const auto itself = [](std::int64_t i) { return static_cast<std::int32_t>(i); };
  if (limit.top_groups >= limit.groups) return choose(scores, itself, experts, top_k, chosen);
  const std::int64_t size = experts / limit.groups;
  for (std::int64_t group = lane_of_warp(); group < limit.groups; group += kWarp) {
    float first = -INFINITY;
    float second = -INFINITY;
    for (std::int64_t e = group * size; e < (group + 1) * size; ++e) {
      if (scores[e] > first) {
        second = first;
        first = scores[e];
      } else if (scores[e] > second) {
        second = scores[e];
      }
    }
    limit.scores[group] = second == -INFINITY ? first : add(first, second);
  }
  __syncwarp();
  choose(limit.scores, itself, limit.groups, limit.top_groups, limit.best);
  if (lane_of_warp() == 0) {  // ids are offered in ascending order
    for (std::int64_t i = 1; i < limit.top_groups; ++i) {
      const std::int32_t id = limit.best[i];
      std::int64_t place = i;
      for (; place > 0 && limit.best[place - 1] > id; --place) limit.best[place] = limit.best[place - 1];
      limit.best[place] = id;
    }
  }
  __syncwarp();
  const auto in_best_groups = [&](std::int64_t i) {
    return static_cast<std::int32_t>(limit.best[i / size] * size + i % size);
  };
  choose(scores, in_best_groups, limit.top_groups * size, top_k, chosen);
}

}  // namespace conclave::cuda
