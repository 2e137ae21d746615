// layers/ops/select_top_k.h on a GPU, a thread a token: the same comparisons in the same order, so that ties
// and NaNs end the same.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace conclave::cuda {

__device__ inline std::int64_t offer(const float* scores, std::int64_t begin, std::int64_t end,
                                     std::int64_t size, std::int64_t count, std::int32_t* chosen) {
  for (std::int64_t id = begin; id < end; ++id) {
    if (count == size) {
      if (!(scores[id] > scores[chosen[count - 1]])) continue;
      --count;
    }
    std::int64_t place = count++;
    for (; place > 0 && scores[id] > scores[chosen[place - 1]]; --place) chosen[place] = chosen[place - 1];
    chosen[place] = static_cast<std::int32_t>(id);
  }
  return count;
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
  if (limit.top_groups >= limit.groups) {
    offer(scores, 0, experts, top_k, 0, chosen);
    return;
  }
  const std::int64_t size = experts / limit.groups;
  for (std::int64_t group = 0; group < limit.groups; ++group) {
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
  offer(limit.scores, 0, limit.groups, limit.top_groups, 0, limit.best);
  for (std::int64_t i = 1; i < limit.top_groups; ++i) {  // ids are offered in ascending order
    const std::int32_t id = limit.best[i];
    std::int64_t place = i;
    for (; place > 0 && limit.best[place - 1] > id; --place) limit.best[place] = limit.best[place - 1];
    limit.best[place] = id;
  }
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < limit.top_groups; ++i)
    count = offer(scores, limit.best[i] * size, (limit.best[i] + 1) * size, top_k, count, chosen);
}

}  // namespace conclave::cuda
