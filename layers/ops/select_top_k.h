// The K best experts of one token, among all of them or among those of its best groups. For the inner loops
// of routers: nothing is allocated.
//
// Only a strictly larger score passes another, so that ties keep the lower id. Comparisons with NaN are
// false: it never breaks a list, and there are always K different ids in it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "layers/context.h"

namespace conclave {

// Group-limited choice (DeepSeek-AI, "DeepSeek-V2", 2024; scored by two experts: "DeepSeek-V3", 2024):
// experts form `groups` equal groups of consecutive ids, and those of a token's `top_groups` best groups
// compete. A group is as good as the sum of its two best scores, or its one expert.
struct GroupLimit {
  std::int64_t groups = 1;
  std::int64_t top_groups = 1;

  bool limits() const { return top_groups < groups; }
};

// Throws Error unless K = top_k of `experts` can be chosen within `limit`.
void check_selection(std::int64_t experts, std::int64_t top_k, const GroupLimit& limit);

// What select_top_k_of_groups needs for each of T tokens; empty where nothing is limited.
struct GroupScratch {
  TensorView scores;  // [T, groups]
  TensorView best;    // int32 [T, top_groups]
};
GroupScratch allocate_group_scratch(Context& ctx, const GroupLimit& limit, std::int64_t tokens);

// Offers the ids [begin, end) to the list `chosen` of at most `size`, which holds `count` lower ids in
// descending order of score. Returns the new count.
inline std::int64_t offer(const float* scores, std::int64_t begin, std::int64_t end, std::int64_t size,
                          std::int64_t count, std::int32_t* chosen) {
  for (auto id = static_cast<std::int32_t>(begin); id < end; ++id) {
    if (count == size) {
      if (!(scores[id] > scores[chosen[count - 1]])) continue;
      --count;
    }
    std::int64_t place = count++;
    for (; place > 0 && scores[id] > scores[chosen[place - 1]]; --place) chosen[place] = chosen[place - 1];
    chosen[place] = id;
  }
  return count;
}

// scores [E] -> chosen [K] in descending order.
inline void select_top_k(const float* scores, std::int64_t experts, std::int64_t top_k,
                         std::int32_t* chosen) {
  offer(scores, 0, experts, top_k, 0, chosen);
}

// The same within `limit`. add(a, b) is the group's score for its two best, a >= b > -inf. `scratch` belongs
// to this token: scores [groups], best [top_groups].
template <class Add>
void select_top_k_of_groups(const float* scores, std::int64_t experts, std::int64_t top_k,
                            const GroupLimit& limit, const Add& add, float* group_scores,
                            std::int32_t* best_groups, std::int32_t* chosen) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const std::int64_t group_size = experts / limit.groups;
  for (std::int64_t group = 0; group < limit.groups; ++group) {
    float first = kNone;
    float second = kNone;
    for (std::int64_t e = group * group_size; e < (group + 1) * group_size; ++e) {
      if (scores[e] > first) {
        second = first;
        first = scores[e];
      } else if (scores[e] > second) {
        second = scores[e];
      }
    }
    group_scores[group] = second == kNone ? first : add(first, second);
  }
  select_top_k(group_scores, limit.groups, limit.top_groups, best_groups);
  std::sort(best_groups, best_groups + limit.top_groups);  // ids are offered in ascending order
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < limit.top_groups; ++i) {
    const std::int64_t begin = best_groups[i] * group_size;
    count = offer(scores, begin, begin + group_size, top_k, count, chosen);
  }
}

}  // namespace conclave
