#include "layers/ops/select_top_k.h"

namespace conclave {

void check_selection(std::int64_t experts, std::int64_t top_k, const GroupLimit& limit) {
  CONCLAVE_CHECK(1 <= top_k && top_k <= experts, "can't choose {} of {} experts", top_k, experts);
  CONCLAVE_CHECK(limit.groups >= 1 && experts % limit.groups == 0, "{} experts can't form {} equal groups",
                 experts, limit.groups);
  CONCLAVE_CHECK(1 <= limit.top_groups && limit.top_groups <= limit.groups, "can't choose {} of {} groups",
                 limit.top_groups, limit.groups);
  const std::int64_t competing = limit.top_groups * (experts / limit.groups);
  CONCLAVE_CHECK(top_k <= competing, "can't choose {} experts from {} groups of {}", top_k, limit.top_groups,
                 experts / limit.groups);
}

GroupScratch allocate_group_scratch(Context& ctx, const GroupLimit& limit, std::int64_t tokens) {
  if (!limit.limits()) return {};
  return {ctx.arena->allocate({tokens, limit.groups}),
          ctx.arena->allocate({tokens, limit.top_groups}, DType::kInt32)};
}

}  // namespace conclave
